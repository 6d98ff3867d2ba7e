"""The simplest baseline: the most frequent items of the training histories, the same for everyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.baselines.base import ScoringModel, check_histories
from recsys.data.histories import interaction_counts, weight_sums
from recsys.tables import CandidateFilter, FloatArray, Histories, IntArray, TopItems
from recsys.tracking import Tracker


@dataclass(frozen=True)
class Popularity(ScoringModel):
    """Ranks by `counts` [N], the interactions of each item, or the sum of their weights."""

    counts: FloatArray

    @property
    def num_items(self) -> int:
        return len(self.counts)

    def scores(self, batch: Histories) -> FloatArray:
        """The counts, for every history."""
        return np.tile(self.counts, (len(batch), 1))

    def rank_among(
        self, filters: Sequence[CandidateFilter], histories: Histories, *, k: int, tracker: Tracker | None = None
    ) -> list[TopItems]:
        """See `ScoringModel`; the catalogue is sorted once, so that an endpoint under load can afford it."""
        check_histories(histories, self.num_items)
        return [self._best(candidates, len(histories), k) for candidates in filters]

    def _best(self, candidates: CandidateFilter, num_rows: int, k: int) -> TopItems:
        order = self._order if candidates.allowed is None else self._order[candidates.allowed[self._order]]
        items = np.full((num_rows, k), -1, dtype=np.int64)
        for row in range(num_rows):
            excluded = np.empty(0, np.int64) if candidates.excluded is None else np.unique(candidates.excluded[row])
            head = order[: k + len(excluded)]
            kept = head[~np.isin(head, excluded)][:k]
            items[row, : len(kept)] = kept
        scores: FloatArray = np.where(items >= 0, self.counts[items], -np.inf).astype(np.float32)
        return TopItems(items, scores)

    @cached_property
    def _order(self) -> IntArray:
        """All items, the most frequent first, equal ones by index."""
        return np.argsort(-self.counts, kind="stable")


def fit_popularity(histories: Histories, num_items: int) -> Popularity:
    """Count the items of the training histories, each interaction by its weight.

    Raises:
        DataError: a history holds an index outside 0..num_items-1.
    """
    check_histories(histories, num_items)
    sums = weight_sums(histories, num_items)
    if sums is None:
        sums = interaction_counts(histories.items, num_items).astype(np.float32)
    return Popularity(sums)
