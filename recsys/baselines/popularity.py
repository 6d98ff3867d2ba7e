"""The simplest baseline: the most frequent items of the training histories, the same for everyone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.baselines.base import TopItems, check_histories, rank_batches
from recsys.tables import FloatArray, Histories
from recsys.tracking import Tracker


@dataclass(frozen=True)
class Popularity:
    """Ranks by `counts` [N], the interactions of each item."""

    counts: FloatArray

    def rank(
        self,
        histories: Histories,
        *,
        k: int,
        exclude_seen: bool,
        window: int | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """The `k` most frequent items for every history; see `Baseline`."""
        return rank_batches(
            lambda batch: np.tile(self.counts, (len(batch), 1)),
            histories,
            num_items=len(self.counts),
            k=k,
            exclude_seen=exclude_seen,
            window=window,
            tracker=tracker,
        )


def fit_popularity(histories: Histories, num_items: int) -> Popularity:
    """Count the items of the training histories.

    Raises:
        DataError: a history holds an index outside 0..num_items-1.
    """
    check_histories(histories, num_items)
    return Popularity(np.bincount(histories.items, minlength=num_items).astype(np.float32))
