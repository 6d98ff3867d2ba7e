"""How well a preference head ranks while it trains: NDCG@10 of validation users, searched exactly."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.baselines.base import TopItems
from recsys.data.histories import sampled_users
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.metrics import top_k_metrics
from recsys.rankers.preference import Asked, PreferenceRanker, rank_by_scores
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from recsys.tables import FloatArray, IntArray, Queries

SAMPLES = 8  # a user's, enough to tell heads apart and a quarter of the default's time
CUTOFF = 10
INDEX_USERS, INDEX_SAMPLES = 500, 2  # whose samples an index is tuned on, and how many of each
SAMPLES_FILE = "validation_samples.parquet"


class HeadValidator(NamedTuple):
    """Scores heads on the same users; `states` are asked for anew where the language model itself is trained."""

    queries: Queries
    latents: FloatArray
    counts: IntArray
    exclude_seen: bool
    seed: int

    @classmethod
    def sample(
        cls, queries: Queries, latents: FloatArray, counts: IntArray, *, users: int, exclude_seen: bool, seed: int
    ) -> HeadValidator:
        """On at most `users` of the queries, chosen by the seed."""
        return cls(sampled_users(queries, users=users, seed=seed), latents, counts, exclude_seen, seed)

    def asked(self, states: FloatArray) -> Asked:
        """The requests of the validation users, given the state [U, d_h] behind each one's history."""
        histories = self.queries.histories
        excluded = [histories[user] for user in range(len(histories))] if self.exclude_seen else None
        return Asked.of(states, histories.user_ids, excluded)

    def preference(self, model: PreferenceModel, states: FloatArray) -> float:
        """Of the best bandwidth and popularity prior, so that a head is not judged by how it happens to be scored."""
        index = ItemIndex.build(self.latents, config=IndexConfig(kind="flat"))
        ranker = PreferenceRanker(
            model,
            latents=self.latents,
            index=index,
            counts=self.counts,
            agreement=None,
            nearest=50,
            seed=self.seed,
        )
        return ranker.tune(self.asked(states), self.queries.targets, samples=SAMPLES)[0].ndcg

    def head(self, head: QueryHead, states: FloatArray) -> float:
        found = rank_by_scores(lambda rows: head.scores(states[rows], self.latents), self.asked(states), k=CUTOFF)
        return self._ndcg(found)

    def _ndcg(self, found: TopItems) -> float:
        return top_k_metrics(found.items, self.queries.targets, k=CUTOFF).ndcg


def save_samples(asked_samples: FloatArray, folder: Path) -> None:
    """Write `validation_samples.parquet`: latents [Q, D] as users' requests ask for them, to tune an index on."""
    flat = pa.array(asked_samples.reshape(-1), type=pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, asked_samples.shape[-1])
    pq.write_table(pa.table({"latent": column}), folder / SAMPLES_FILE)


def load_samples(folder: Path) -> FloatArray:
    """What `save_samples` wrote, float32 [Q, D]."""
    column = pq.read_table(folder / SAMPLES_FILE).combine_chunks()["latent"].chunk(0)
    width = column.type.list_size
    found: FloatArray = column.flatten().to_numpy().reshape(-1, width)
    return found
