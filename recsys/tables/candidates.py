"""Which items may be recommended: the one place that says "not this item".

Under the policy `seen-kept` the items of a user's own history may come back, under `seen-left-out` they may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from recsys.tables.histories import Histories
from recsys.tables.types import BoolArray, FloatArray, IntArray

Policy = Literal["seen-kept", "seen-left-out"]
SEEN_KEPT: Policy = "seen-kept"
SEEN_LEFT_OUT: Policy = "seen-left-out"
POLICIES = (SEEN_KEPT, SEEN_LEFT_OUT)


def policy_of(exclude_seen: bool) -> Policy:
    """The policy of leaving seen items out, or of keeping them."""
    return SEEN_LEFT_OUT if exclude_seen else SEEN_KEPT


@dataclass(frozen=True)
class CandidateFilter:
    """Restricts the rankings of some requests over N items; an empty filter allows everything.

    `excluded` holds item indices for each request [U]; `allowed` [N] is shared by all of them.
    """

    excluded: Sequence[IntArray] | None = None
    allowed: BoolArray | None = None

    @classmethod
    def unseen(cls, histories: Histories) -> Self:
        """Everything but each history's own items."""
        return cls([histories[user] for user in range(len(histories))])

    @classmethod
    def under(cls, policy: Policy, histories: Histories) -> Self:
        """What a policy allows for these whole histories."""
        return cls.unseen(histories) if policy == SEEN_LEFT_OUT else cls()

    def without(self, excluded: Sequence[IntArray]) -> CandidateFilter:
        """The same, with more items excluded from each request [U]."""
        if self.excluded is None:
            return CandidateFilter(excluded, self.allowed)
        both = [np.union1d(*items) for items in zip(self.excluded, excluded, strict=True)]
        return CandidateFilter(both, self.allowed)

    def take(self, rows: IntArray) -> CandidateFilter:
        """The filter of some of the requests, in that order."""
        excluded = None if self.excluded is None else [self.excluded[int(row)] for row in rows]
        return CandidateFilter(excluded, self.allowed)

    def mask(self, num_requests: int, num_items: int) -> BoolArray | None:
        """bool [U, N], or None where everything is allowed."""
        if self.excluded is None and self.allowed is None:
            return None
        mask = np.ones((num_requests, num_items), dtype=np.bool_)
        if self.allowed is not None:
            mask &= self.allowed
        for row, items in enumerate(self.excluded or ()):
            mask[row, items] = False
        return mask

    def apply(self, scores: FloatArray) -> None:
        """Set the scores [U, N] of all other items to -inf, in place."""
        if self.allowed is not None:
            scores[:, ~self.allowed] = -np.inf
        for row, items in enumerate(self.excluded or ()):
            scores[row, items] = -np.inf
