"""Requests that are ranked together, and everything that rankers share about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from recsys.tables import CandidateFilter, FloatArray, Histories, TopItems
from recsys.tracking import NullTracker, Tracker


@dataclass(frozen=True, eq=False)
class RankingBatch:
    """Requests as every ranker gets them; made once.

    `histories` hold the newest items of each request, oldest first; their `user_ids` name the noise of diffusion
    samples, so that one user always gets the same list. `rankings` are those made so far, by source: a ranker may read
    what the rankers before it found.
    """

    histories: Histories
    candidates: CandidateFilter
    max_history: int
    rankings: dict[str, TopItems] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=NullTracker)
    _shared: dict[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        histories: Histories,
        *,
        max_history: int,
        exclude_seen: bool = True,
        candidates: CandidateFilter | None = None,
        tracker: Tracker | None = None,
    ) -> Self:
        """Of whole histories: rankers see the newest `max_history` items.

        Args:
            exclude_seen: leave out all items of the whole history; only looked at without `candidates`.
        """
        if candidates is None:
            candidates = CandidateFilter.unseen(histories) if exclude_seen else CandidateFilter()
        return cls(histories.last(max_history), candidates, max_history, tracker=tracker or NullTracker())

    def __len__(self) -> int:
        return len(self.histories)

    def share(self, name: str, array: FloatArray) -> None:
        """Keep what one ranker computed as a by-product for the others."""
        self._shared.setdefault(name, array)

    def shared(self, name: str, compute: Callable[[], FloatArray]) -> FloatArray:
        """What was shared under a name; computed, and shared from then on, where nothing was."""
        if name not in self._shared:
            self._shared[name] = compute()
        return self._shared[name]
