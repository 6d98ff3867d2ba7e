"""What every baseline does: rank the catalogue for each history, ties broken by item index.

Reads and writes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np

from recsys.errors import DataError
from recsys.tables import FloatArray, Histories, IntArray
from recsys.tracking import NullTracker, Tracker

SCORES_A_BATCH = 4_000_000  # 16 MB of float32 scores and twice that of sorting keys


class TopItems(NamedTuple):
    """The best items of each user, best first."""

    items: IntArray  # [U, k] item indices, -1 = empty place
    scores: FloatArray  # [U, k], -inf in an empty place


class Baseline(Protocol):
    """A fitted model that ranks items for histories."""

    def rank(
        self,
        histories: Histories,
        *,
        k: int,
        exclude_seen: bool,
        window: int | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """The `k` best items of every history, best first.

        The newest `window` items of a history are looked at, all of them by default; where `exclude_seen`, none of the
        whole history is returned.
        """


class ScoringBaseline(ABC):
    """A baseline that scores the whole catalogue for a history."""

    @property
    @abstractmethod
    def num_items(self) -> int:
        """N, the items of the catalogue."""

    @abstractmethod
    def scores(self, batch: Histories) -> FloatArray:
        """Float32 [B, N], writable, of a batch of histories."""

    def rank(
        self,
        histories: Histories,
        *,
        k: int,
        exclude_seen: bool,
        window: int | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """See `Baseline`.

        Raises:
            DataError: a history holds an index outside the catalogue.
        """
        check_histories(histories, self.num_items)
        size = max(1, SCORES_A_BATCH // max(1, self.num_items))
        starts = range(0, len(histories), size)
        parts = []
        for start in (tracker or NullTracker()).track(starts, "ranking", len(starts)):
            batch = histories.take(np.arange(start, min(start + size, len(histories))))
            scores = self.scores(batch if window is None else batch.last(window))
            if exclude_seen:
                scores[np.repeat(np.arange(len(batch)), batch.lengths), batch.items] = -np.inf
            parts.append(top_items(scores, k))
        return join(parts, k)


def check_histories(histories: Histories, num_items: int) -> None:
    """Refuse item indices outside the catalogue.

    Raises:
        DataError: an index lies outside 0..num_items-1.
    """
    items = histories.items
    if len(items) and (items.min() < 0 or items.max() >= num_items):
        raise DataError(
            f"histories: item indices {items.min()}..{items.max()}, allowed 0..{num_items - 1}; "
            "use the catalogue that the model was fitted on"
        )


def top_items(scores: FloatArray, k: int) -> TopItems:
    """The `k` best columns of scores [B, N], best first, equal scores by column; -inf is never returned.

    Sorts unique 64-bit keys - the score's order-preserving bits, then the column - so the result cannot depend on
    how a partition treats ties. Places beyond N are empty.
    """
    num_rows, num_items = scores.shape
    width = min(k, num_items)
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # adding 0 turns -0.0 into 0.0
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = -(ascending << 32) + np.arange(num_items)
    best = np.sort(np.partition(keys, width - 1, axis=1)[:, :width] if width else keys[:, :0], axis=1)
    columns = best & 0xFFFFFFFF
    found = np.take_along_axis(scores, columns, axis=1)
    items = np.full((num_rows, k), -1, dtype=np.int64)
    values = np.full((num_rows, k), -np.inf, dtype=np.float32)
    items[:, :width] = np.where(np.isneginf(found), -1, columns)
    values[:, :width] = found
    return TopItems(items, values)


def join(parts: list[TopItems], k: int) -> TopItems:
    """The rows of several parts, each of width `k`, one below the other."""
    if not parts:
        return TopItems(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
    return TopItems(np.concatenate([p.items for p in parts]), np.concatenate([p.scores for p in parts]))
