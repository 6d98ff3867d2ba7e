"""Requests that are ranked together, and everything that rankers share about them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from recsys.tables import POLICIES, CandidateFilter, Histories, IntArray, Policy, TopItems, policy_of
from recsys.tracking import NullTracker, Tracker

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RankingBatch:
    """Requests as every ranker gets them, under one policy; made once.

    `histories` hold the newest items of each request, oldest first; their `user_ids` name the noise of diffusion
    samples, so that one user always gets the same list. `rankings` are those made so far, by source: a ranker may read
    what the rankers before it found.
    """

    histories: Histories
    filters: Mapping[Policy, CandidateFilter]  # of every policy that these requests are ranked under
    policy: Policy
    max_history: int
    rankings: dict[str, TopItems] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=NullTracker)
    _shared: dict[Hashable, Any] = field(default_factory=dict)

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
            exclude_seen: leave out all items of the whole history; with `candidates` it only names the policy.
        """
        policy = policy_of(exclude_seen)
        filters = {policy: candidates or CandidateFilter.under(policy, histories)}
        return cls(histories.last(max_history), filters, policy, max_history, tracker=tracker or NullTracker())

    @classmethod
    def under_policies(
        cls,
        histories: Histories,
        *,
        max_history: int,
        policies: Sequence[Policy] = POLICIES,
        excluded: Sequence[IntArray] | None = None,
        tracker: Tracker | None = None,
    ) -> dict[Policy, Self]:
        """The same requests under each policy; what does not depend on it is computed once for all of them.

        Args:
            excluded: item indices [U] that are left out under every policy, such as dislikes.
        """
        filters = {policy: CandidateFilter.under(policy, histories) for policy in policies}
        if excluded is not None:
            filters = {policy: candidates.without(excluded) for policy, candidates in filters.items()}
        first = cls(histories.last(max_history), filters, policies[0], max_history, tracker=tracker or NullTracker())
        return {policy: first.under(policy) for policy in policies}

    def __len__(self) -> int:
        return len(self.histories)

    @property
    def candidates(self) -> CandidateFilter:
        """What may be recommended under the batch's policy."""
        return self.filters[self.policy]

    def under(self, policy: Policy) -> Self:
        """The same requests under another of their policies, with rankings of its own."""
        return replace(self, policy=policy, rankings={})

    def share(self, name: Hashable, value: object) -> None:
        """Keep what one ranker computed as a by-product for the others."""
        self._shared.setdefault(name, value)

    def shared(self, name: Hashable, compute: Callable[[], T]) -> T:
        """What was shared under a name; computed, and shared from then on, where nothing was."""
        if name not in self._shared:
            self._shared[name] = compute()
        found: T = self._shared[name]
        return found

    def ranked_once(self, name: Hashable, rank: Callable[[list[CandidateFilter]], Sequence[TopItems]]) -> TopItems:
        """The ranking of the batch's policy, where one computation gives those of all policies.

        Args:
            name: of the ranker and all of its parameters.
            rank: filters of all policies -> their rankings.
        """
        found = self.shared(name, lambda: rank([*self.filters.values()]))
        return found[list(self.filters).index(self.policy)]
