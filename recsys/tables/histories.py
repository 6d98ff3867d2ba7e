"""Sequences of item indices: one a user, and the queries that an evaluation makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from recsys.errors import DataError
from recsys.tables.types import FloatArray, IntArray


@dataclass(frozen=True, repr=False)
class Histories:
    """One sequence of item indices a user, oldest first, in compressed rows.

    User u is `items[indptr[u]:indptr[u+1]]`. `weights`, of training histories alone, say how much each interaction
    counts; None where all count alike.
    """

    user_ids: list[str]
    indptr: IntArray  # [U + 1]
    items: IntArray  # [indptr[-1]]
    weights: FloatArray | None = None  # [indptr[-1]], 0 or more

    def __post_init__(self) -> None:
        if len(self.indptr) != len(self.user_ids) + 1 or self.indptr[-1] != len(self.items):
            raise DataError("histories: indptr does not fit user_ids and items")
        if self.weights is not None and len(self.weights) != len(self.items):
            raise DataError(f"histories: {len(self.weights)} weights for {len(self.items)} items")

    def __len__(self) -> int:
        return len(self.user_ids)

    def __getitem__(self, user: int) -> IntArray:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def __repr__(self) -> str:
        return f"<Histories ({len(self)} users x {len(self.items)} items)>"

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.indptr)

    @classmethod
    def from_lists(cls, user_ids: Sequence[str], sequences: Sequence[Sequence[int] | IntArray]) -> Self:
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        parts = [np.asarray(s, dtype=np.int64) for s in sequences]
        return cls(list(user_ids), indptr, np.concatenate(parts) if parts else np.zeros(0, np.int64))

    def last(self, count: int) -> Histories:
        """The same users with at most their `count` newest items, without weights."""
        return Histories.from_lists(self.user_ids, [self[u][-count:] for u in range(len(self))])

    def take(self, users: IntArray) -> Histories:
        """The given users (positions), in that order, without weights."""
        return Histories.from_lists([self.user_ids[u] for u in users], [self[int(u)] for u in users])


@dataclass(frozen=True, repr=False)
class Queries:
    """The queries of an evaluation: each user's history before the target, and the target's item index."""

    histories: Histories
    targets: IntArray  # [U]

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.histories):
            raise DataError("queries: one target a user is needed")

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"<Queries ({len(self)} users)>"

    @property
    def user_ids(self) -> list[str]:
        return self.histories.user_ids
