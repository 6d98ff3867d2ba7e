"""One object that recommends: what the command line and serving call, for one request in the user's own item ids.

Reads the folders of a run, or trains a language model; ranks with it alone, or with both routes and SASRec
fused (`recsys.rankers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from recsys.baselines.base import TopItems
from recsys.data.dataset import Dataset
from recsys.data.histories import excludes_seen, queries, training_histories
from recsys.embeddings.text import item_texts
from recsys.errors import DataError
from recsys.fusion import GENERATIVE
from recsys.instructions.config import InstructConfig
from recsys.instructions.tasks import TaskSource, make_examples
from recsys.llm.config import FinetuneConfig
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.llm.storage import LanguageModel, load_language_model
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import Tuned
from recsys.rankers.generative import GenerativeRanker, Validator
from recsys.rankers.loading import Folders, load_ensemble
from recsys.rankers.permits import Permits
from recsys.tables import VALIDATION, Catalog, FloatArray, Histories, SemanticIds

Ranks = Callable[[Histories, int, bool], dict[str, TopItems]]


class Recommendation(NamedTuple):
    """One item. `score` is of the ranking that is served; `sources` holds the score of each ranking that lists it."""

    item_id: str
    title: str
    score: float
    sources: dict[str, float]


class Recommender:
    """Recommendations for a history of the user's own item ids.

    Args:
        ranks: (one history, k, whether to leave its items out) -> rankings by source; the last one is served.
    """

    def __init__(self, catalog: Catalog, ranks: Ranks) -> None:
        self._catalog, self._titles, self._ranks = catalog, catalog.titles(), ranks

    @classmethod
    def generative(
        cls, catalog: Catalog, semantic_ids: SemanticIds, language_model: LanguageModel, *, history: int = 20
    ) -> Self:
        """By the language model alone, which looks at the newest `history` items.

        Raises:
            DataError: the semantic ids are of another catalogue.
            ModelError: the backbone cannot be decoded as a tree.
        """
        if semantic_ids.item_ids != catalog.item_ids:
            raise DataError("the semantic ids are of another catalogue; tokenize this one")
        ranker = GenerativeRanker(language_model, semantic_ids)

        def ranks(histories: Histories, k: int, exclude_seen: bool) -> dict[str, TopItems]:
            return {GENERATIVE: ranker.rank(histories, k=k, exclude_seen=exclude_seen, window=history)}

        return cls(catalog, ranks)

    @classmethod
    def load(cls, dataset: Path, tokens: Path, language_model: Path, *, history: int = 20) -> Self:
        """The language model alone, from the folders 01_dataset, 03_tokens/discrete and 05_language_model of a run."""
        return cls.generative(
            Dataset.load(dataset).catalog,
            SemanticIds.load(tokens / "semantic_ids.parquet"),
            load_language_model(language_model),
            history=history,
        )

    @classmethod
    def load_both(
        cls, folders: Folders, tuned: Path, config: RecommendConfig, *, history: int = 20, seed: int = 0
    ) -> Self:
        """Both routes and SASRec, fused, from the folders of a run and its `fusion.json`."""
        catalog, ensemble = (
            Dataset.load(folders.dataset).catalog,
            load_ensemble(folders, config, window=history, seed=seed),
        )
        chosen = Tuned.load(tuned)

        def ranks(histories: Histories, k: int, exclude_seen: bool) -> dict[str, TopItems]:
            permits = Permits.unseen(histories) if exclude_seen else Permits()
            return ensemble.rank(histories, histories.user_ids, chosen, k=k, permits=permits)

        return cls(catalog, ranks)

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
            queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=history),
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
        return cls.generative(dataset.catalog, semantic_ids, load_language_model(folder), history=history)

    def recommend(
        self, history: Sequence[str], k: int = 10, *, exclude_seen: bool = True, user: str | None = None
    ) -> list[Recommendation]:
        """The `k` items to follow a history of item ids, oldest first; an empty history is allowed.

        The same request gives the same list: what is drawn at random belongs to `user`, or to the history where no user
        is named.

        Raises:
            DataError: an id is not in the catalogue, or `k` is below 1.
        """
        if k < 1:
            raise DataError(f"k={k} recommendations were asked for; at least 1 is needed")
        items = self._catalog.indices(history)
        name = user if user is not None else "\0".join(history)
        rankings = self._ranks(Histories.from_lists([name], [items]), k, exclude_seen)
        scores = {source: _by_item(found) for source, found in rankings.items()}
        *_, served = scores.values()
        return [
            Recommendation(
                self._catalog.item_ids[item],
                self._titles[item],
                score,
                {source: found[item] for source, found in scores.items() if item in found},
            )
            for item, score in list(served.items())[:k]
        ]


def _by_item(found: TopItems) -> dict[int, float]:
    """Item index -> score of the first row, best first."""
    return {int(i): float(s) for i, s in zip(found.items[0], found.scores[0], strict=True) if i >= 0}
