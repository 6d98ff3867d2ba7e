"""Models that score the whole catalogue for a history, and the ranking that comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from recsys.errors import DataError
from recsys.tables import CandidateFilter, FloatArray, Histories, IntArray, TopItems, concatenate, top_k
from recsys.tracking import NullTracker, Tracker

SCORES_PER_BATCH = 4_000_000  # 16 MB of float32 scores and twice that of sorting keys


class ScoringModel(ABC):
    """A fitted model that scores every item for every history."""

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
        candidates: CandidateFilter | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """The `k` best candidates for every history, best first, equal scores by item index.

        Raises:
            DataError: a history holds an index outside the catalogue.
        """
        return self.rank_among([candidates or CandidateFilter()], histories, k=k, tracker=tracker)[0]

    def rank_among(
        self, filters: Sequence[CandidateFilter], histories: Histories, *, k: int, tracker: Tracker | None = None
    ) -> list[TopItems]:
        """`rank` among the candidates of each filter, by scores that are computed once.

        Raises:
            DataError: a history holds an index outside the catalogue.
        """
        check_histories(histories, self.num_items)
        return rank_among(
            filters,
            lambda rows: self.scores(histories.take(rows)),
            len(histories),
            num_items=self.num_items,
            k=k,
            tracker=tracker,
        )


def rank_by_scores(
    scores: Callable[[IntArray], FloatArray],
    num_rows: int,
    *,
    num_items: int,
    k: int,
    candidates: CandidateFilter | None = None,
    tracker: Tracker | None = None,
) -> TopItems:
    """The `k` best candidates of every row, some rows at a time.

    Args:
        scores: row numbers [B] -> scores [B, N], writable.
    """
    return rank_among([candidates or CandidateFilter()], scores, num_rows, num_items=num_items, k=k, tracker=tracker)[0]


def rank_among(
    filters: Sequence[CandidateFilter],
    scores: Callable[[IntArray], FloatArray],
    num_rows: int,
    *,
    num_items: int,
    k: int,
    tracker: Tracker | None = None,
) -> list[TopItems]:
    """`rank_by_scores` among the candidates of each filter; scores are computed once."""
    size = max(1, SCORES_PER_BATCH // max(1, num_items))
    starts = range(0, num_rows, size)
    parts: list[list[TopItems]] = [[] for _ in filters]
    for start in (tracker or NullTracker()).track(starts, "ranking", len(starts)):
        rows = np.arange(start, min(start + size, num_rows))
        found = scores(rows).astype(np.float32, copy=False)
        for number, candidates in enumerate(filters):
            kept = found if number == len(filters) - 1 else found.copy()
            candidates.take(rows).apply(kept)
            parts[number].append(top_k(kept, k))
    return [concatenate(part, k) for part in parts]


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
