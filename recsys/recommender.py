"""One object that recommends: what the recommend stage, the command line and serving call.

`GenerativeRanker` ranks any number of histories with a trained language model; `Recommender` answers one request in the
user's own item ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np

from recsys.baselines.base import TopItems
from recsys.data.dataset import Dataset
from recsys.data.histories import has_repeats, queries, training_histories
from recsys.decoding.beam import all_but, decode_all
from recsys.decoding.check import check_backbone
from recsys.decoding.trie import Trie
from recsys.embeddings.text import item_texts
from recsys.errors import DataError
from recsys.instructions.config import InstructConfig
from recsys.instructions.tasks import TaskSource, make_examples
from recsys.llm.config import FinetuneConfig
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.llm.storage import LanguageModel, load_language_model
from recsys.metrics import top_k_metrics
from recsys.tables import VALIDATION, Catalog, FloatArray, Histories, Interactions, Queries, SemanticIds
from recsys.tracking import Tracker


def excludes_seen(policy: Literal["auto", "always", "never"], interactions: Interactions) -> bool:
    """Whether a history's items are left out of its ranking: under `auto`, unless the data has repeats."""
    return policy == "always" or (policy == "auto" and not has_repeats(interactions))


class GenerativeRanker:
    """Ranks the catalogue by what the language model would write next; satisfies the `Baseline` protocol.

    Raises:
        ModelError: the backbone cannot be decoded as a tree.
    """

    def __init__(
        self, language_model: LanguageModel, semantic_ids: SemanticIds, *, beams: int = 50, batch_size: int = 128
    ) -> None:
        check_backbone(language_model.model)
        self._language_model = language_model
        self._renderer = language_model.renderer(semantic_ids)
        self._num_items = len(semantic_ids)
        self._trie = Trie.build(semantic_ids.codes, semantic_ids.num_codes)
        self._beams, self._batch_size = beams, batch_size

    def rank(
        self,
        histories: Histories,
        *,
        k: int,
        exclude_seen: bool,
        window: int | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """The `k` best items of every history by log-probability, from a beam of at least `k`. See `Baseline`."""
        seen = [histories[user] for user in range(len(histories))]
        found = decode_all(
            self._language_model.model,
            [self._renderer.prompt(history if window is None else history[-window:]) for history in seen],
            trie=self._trie,
            base=self._language_model.layout.base,
            beams=max(self._beams, k),
            batch_size=self._batch_size,
            allowed=all_but(seen, self._num_items) if exclude_seen else None,
            tracker=tracker,
        )
        return TopItems(found.items[:, :k].numpy(), found.scores[:, :k].numpy())


@dataclass(frozen=True)
class Validator:
    """Validation NDCG@10 of a language model, through the real decoder."""

    queries: Queries
    semantic_ids: SemanticIds
    exclude_seen: bool
    beams: int = 20
    batch_size: int = 128

    @classmethod
    def sample(cls, queries: Queries, semantic_ids: SemanticIds, *, users: int, seed: int, exclude_seen: bool) -> Self:
        """On at most `users` of the queries, chosen by the seed."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:users])
        taken = Queries(queries.histories.take(chosen), queries.targets[chosen])
        return cls(taken, semantic_ids, exclude_seen)

    def __call__(self, language_model: LanguageModel) -> float:
        ranker = GenerativeRanker(language_model, self.semantic_ids, beams=self.beams, batch_size=self.batch_size)
        found = ranker.rank(self.queries.histories, k=10, exclude_seen=self.exclude_seen)
        return top_k_metrics(found.items, self.queries.targets, k=10).ndcg


class Recommendation(NamedTuple):
    item_id: str
    title: str
    score: float  # log-probability of the item's semantic id


class Recommender:
    """Recommendations for a history of the user's own item ids.

    Args:
        history: the newest items of a history that are looked at.
    """

    def __init__(
        self, catalog: Catalog, semantic_ids: SemanticIds, language_model: LanguageModel, *, history: int = 20
    ) -> None:
        if semantic_ids.item_ids != catalog.item_ids:
            raise DataError("the semantic ids are of another catalogue; tokenize this one")
        self._catalog, self._titles, self._history = catalog, catalog.titles(), history
        self._ranker = GenerativeRanker(language_model, semantic_ids)

    @classmethod
    def load(cls, dataset: Path, tokens: Path, language_model: Path, *, history: int = 20) -> Self:
        """From the folders of a run: 01_dataset, 03_tokens/discrete and 05_language_model."""
        return cls(
            Dataset.load(dataset).catalog,
            SemanticIds.load(tokens / "semantic_ids.parquet"),
            load_language_model(language_model),
            history=history,
        )

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        semantic_ids: SemanticIds,
        codebooks: FloatArray,
        *,
        folder: Path,
        config: FinetuneConfig | None = None,
        history: int = 20,
        seed: int = 0,
    ) -> Self:
        """Train a language model on a dataset with given semantic ids; it is written to `folder`.

        Args:
            codebooks: [L, K, d] of the tokenizer that made the ids; code tokens that mean alike start alike.
            config: by default a small model from scratch.
        """
        training = training_histories(dataset.interactions, dataset.catalog)
        instruct, config = InstructConfig(), config or FinetuneConfig()
        validator = Validator.sample(
            queries(dataset.interactions, dataset.catalog, split=VALIDATION, history=history),
            semantic_ids,
            users=config.validation_users,
            seed=seed,
            exclude_seen=excludes_seen("auto", dataset.interactions),
        )
        data = FinetuneData(
            examples=make_examples(TaskSource(dataset.catalog, training), instruct),
            texts=item_texts(dataset.catalog),
            semantic_ids=semantic_ids,
            codebooks=codebooks,
            instruct=instruct,
        )
        folder.mkdir(parents=True, exist_ok=True)
        finetune(data, config, out=folder, validate=validator, seed=seed)
        return cls(dataset.catalog, semantic_ids, load_language_model(folder), history=history)

    def recommend(self, history: Sequence[str], k: int = 10, *, exclude_seen: bool = True) -> list[Recommendation]:
        """The `k` items to follow a history of item ids, oldest first; an empty history is allowed.

        Raises:
            DataError: an id is not in the catalogue, or `k` is below 1.
        """
        if k < 1:
            raise DataError(f"k={k} recommendations were asked for; at least 1 is needed")
        items = self._catalog.indices(history)
        histories = Histories.from_lists([""], [items])
        found = self._ranker.rank(histories, k=k, exclude_seen=exclude_seen, window=self._history)
        return [
            Recommendation(self._catalog.item_ids[item], self._titles[item], float(score))
            for item, score in zip(found.items[0], found.scores[0], strict=True)
            if item >= 0
        ]
