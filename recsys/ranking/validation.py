"""How well a model ranks while it trains: NDCG@10 of validation users, by the ranker that will serve it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.baselines.base import rank_by_scores
from recsys.data.purposes import users_for
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.sampling import sample_key
from recsys.llm.storage import LanguageModel
from recsys.metrics import top_k_metrics
from recsys.ranking.base import Ranker
from recsys.ranking.diffusion import DiffusionRanker, LatentSearch
from recsys.ranking.generative import GenerativeRanker
from recsys.ranking.item_scored import ItemScoredRanker
from recsys.ranking.query import RankingBatch
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from recsys.tables import FloatArray, Queries, SemanticIds

NUM_BEAMS = 20
NUM_SAMPLES = 8  # a user's, enough to tell heads apart and a quarter of the default's time
CUTOFF = 10
INDEX_USERS, INDEX_SAMPLES = 500, 2  # whose samples an index is tuned on, and how many of each
SAMPLES_FILE = "validation_samples.parquet"


class ValidationUsers(NamedTuple):
    """Users whose next item a model should rank first: those that choose among its epochs."""

    queries: Queries
    exclude_seen: bool

    @classmethod
    def sample(cls, queries: Queries, *, users: int, seed: int, exclude_seen: bool) -> Self:
        """At most `users` of those that choose epochs; see `users_for`."""
        return cls(users_for("epochs", queries, seed=seed, limit=users), exclude_seen)

    def batch(self) -> RankingBatch:
        """Their requests, with histories as they are."""
        histories = self.queries.histories
        longest = int(histories.lengths.max(initial=1))
        return RankingBatch.build(histories, max_history=longest, exclude_seen=self.exclude_seen)

    def ndcg(self, *rankers: Ranker) -> float:
        """NDCG@10, the mean of several rankers' where more than one is given."""
        batch, targets = self.batch(), self.queries.targets
        found = [ranker.rank(batch, CUTOFF) for ranker in rankers]
        return statistics.fmean(top_k_metrics(top.items, targets, k=CUTOFF).ndcg for top in found)


@dataclass(frozen=True)
class LanguageModelValidator:
    """Scores language models through the real decoder."""

    users: ValidationUsers
    semantic_ids: SemanticIds

    def __call__(self, language_model: LanguageModel) -> float:
        """The mean of both rankings, where items are scored as a whole too."""
        rankers: list[Ranker] = [GenerativeRanker(language_model, self.semantic_ids, num_beams=NUM_BEAMS)]
        if language_model.items is not None:
            rankers.append(ItemScoredRanker(language_model, self.semantic_ids))
        return self.users.ndcg(*rankers)


class HeadValidator(NamedTuple):
    """Scores the diffusion module and the plain heads on the same users, by exact search.

    `states` [U, d_h] are the conditions of the users; they are passed anew where the language model itself is trained.
    """

    users: ValidationUsers
    latents: FloatArray
    seed: int

    def preference(self, model: PreferenceModel, states: FloatArray) -> float:
        """Of the best bandwidth, so that a module is not judged by how it happens to be scored."""
        search = LatentSearch(self.latents, ItemIndex.build(self.latents, config=IndexConfig(kind="flat")))
        ranker = DiffusionRanker(model, search, lambda _: states, num_samples=NUM_SAMPLES, nearest=50, seed=self.seed)
        return ranker.best_bandwidth(self.users.batch(), self.users.queries.targets).score

    def head(self, head: QueryHead, states: FloatArray) -> float:
        """By the head's own scores."""
        users = self.users
        found = rank_by_scores(
            lambda rows: head.scores(states[rows], self.latents),
            len(states),
            num_items=len(self.latents),
            k=CUTOFF,
            candidates=users.batch().candidates,
        )
        return top_k_metrics(found.items, users.queries.targets, k=CUTOFF).ndcg

    def index_samples(self, model: PreferenceModel, states: FloatArray) -> FloatArray:
        """Latents [Q, D] as users' requests will search for them, to tune an index on."""
        keys = [sample_key(user) for user in self.users.queries.user_ids[:INDEX_USERS]]
        samples = model.sample(states[:INDEX_USERS], keys, seed=self.seed, num_samples=INDEX_SAMPLES)
        return samples.reshape(-1, samples.shape[-1])


def save_samples(samples: FloatArray, folder: Path) -> None:
    """Write `validation_samples.parquet`: latents [Q, D]."""
    flat = pa.array(samples.reshape(-1), type=pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, samples.shape[-1])
    pq.write_table(pa.table({"latent": column}), folder / SAMPLES_FILE)


def load_samples(folder: Path) -> FloatArray:
    """What `save_samples` wrote, float32 [Q, D]."""
    column = pq.read_table(folder / SAMPLES_FILE).combine_chunks()["latent"].chunk(0)
    samples: FloatArray = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return samples
