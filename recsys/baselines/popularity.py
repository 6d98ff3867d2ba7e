"""The simplest baseline: the most frequent items of the training histories, the same for everyone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.baselines.base import ScoringBaseline, check_histories
from recsys.tables import FloatArray, Histories


@dataclass(frozen=True)
class Popularity(ScoringBaseline):
    """Ranks by `counts` [N], the interactions of each item."""

    counts: FloatArray

    @property
    def num_items(self) -> int:
        return len(self.counts)

    def scores(self, batch: Histories) -> FloatArray:
        """The counts, for every history."""
        return np.tile(self.counts, (len(batch), 1))


def fit_popularity(histories: Histories, num_items: int) -> Popularity:
    """Count the items of the training histories.

    Raises:
        DataError: a history holds an index outside 0..num_items-1.
    """
    check_histories(histories, num_items)
    return Popularity(np.bincount(histories.items, minlength=num_items).astype(np.float32))
