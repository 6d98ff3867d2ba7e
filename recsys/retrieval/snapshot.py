"""One state of an item index, never changed: a base, which of its items are removed, and the items added since.

A change makes another snapshot and shares what stayed the same; whoever holds one sees no later change.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from recsys.errors import DataError
from recsys.retrieval.base import Base, Places, places_in
from recsys.retrieval.exact import Found, distances_to, ranked, scan
from recsys.tables import BoolArray, FloatArray, IntArray

Allowed = BoolArray | IntArray | Set[int]


class Delta(NamedTuple):
    """Items added since the base was built, searched exactly: `labels` [A] ascending, `vectors` [A, D].

    `births` [A] numbers the additions, so that a compaction knows which came after it had begun.
    """

    labels: IntArray
    vectors: FloatArray
    births: IntArray

    def rows(self, keep: BoolArray | IntArray) -> Delta:
        return Delta(self.labels[keep], self.vectors[keep], self.births[keep])


class Live(NamedTuple):
    """All items that can be found: `labels` [N] ascending, `vectors` [N, D]."""

    labels: IntArray
    vectors: FloatArray


@dataclass(frozen=True, repr=False)
class Snapshot:
    """`alive` [len(base)] is False for removed items of the base, None where none is; `births` counts additions."""

    base: Base
    alive: BoolArray | None
    delta: Delta
    births: int = 0

    @classmethod
    def of(cls, base: Base) -> Self:
        """A base without changes."""
        nothing = Delta(np.empty(0, np.int64), np.empty((0, base.vectors.shape[1]), np.float32), np.empty(0, np.int64))
        return cls(base, None, nothing)

    def __len__(self) -> int:
        removed = 0 if self.alive is None else len(self.alive) - int(np.count_nonzero(self.alive))
        return len(self.base) - removed + len(self.delta.labels)

    def live(self) -> Live:
        """A copy of everything that can be found, in the order of the labels."""
        kept = slice(None) if self.alive is None else self.alive
        labels = np.concatenate([self.base.labels[kept], self.delta.labels])
        order = np.argsort(labels)
        return Live(labels[order], np.concatenate([self.base.vectors[kept], self.delta.vectors])[order])

    def contains(self, labels: IntArray) -> BoolArray:
        """[N], which labels can be found."""
        positions, present = self.base.places(labels)
        if self.alive is not None:
            present = present & self.alive[positions]
        either: BoolArray = present | places_in(self.delta.labels, labels).present
        return either

    def search(self, queries: FloatArray, k: int, allowed: Allowed | None = None) -> Found:
        """The k nearest of what is alive and allowed, to checked queries [Q, D]; see `ItemIndex.search`."""
        base, delta, metric = self.base, self.delta, self.base.metric
        mask = self.alive
        if allowed is not None:
            permits = _checked_filter(allowed)
            permitted = _permitted(permits, base.labels, base.places)
            mask = permitted if mask is None else permitted & mask
            delta = delta.rows(_permitted(permits, delta.labels, partial(places_in, delta.labels)))
        labels, distances = base.nearest(queries, k, mask)
        if len(delta.labels):
            rows = scan(queries, delta.vectors, k, metric)
            labels = np.concatenate([labels, delta.labels[rows]], axis=1)
            distances = np.concatenate([distances, distances_to(queries, delta.vectors, rows, metric)], axis=1)
        return ranked(labels, distances, k)

    def adding(self, labels: IntArray, vectors: FloatArray) -> Self:
        """With new items in the delta.

        Raises:
            DataError: a label is in use.
        """
        used = labels[self.contains(labels)]
        if len(used):
            raise DataError(f"label {used[0]} is in the index already; remove it first, then add its new vector")
        born = np.arange(self.births, self.births + len(labels))
        added = Delta(
            np.concatenate([self.delta.labels, labels]),
            np.concatenate([self.delta.vectors, vectors]),
            np.concatenate([self.delta.births, born]),
        )
        return replace(self, delta=added.rows(np.argsort(added.labels)), births=self.births + len(labels))

    def removing(self, labels: IntArray) -> Self:
        """Without some items.

        Raises:
            DataError: a label is not in the index.
        """
        missing = labels[~self.contains(labels)]
        if len(missing):
            raise DataError(f"label {missing[0]} is not in the index; only what is in it can be removed")
        positions, present = self.base.places(labels)
        alive = np.ones(len(self.base), dtype=np.bool_) if self.alive is None else self.alive.copy()
        alive[positions[present]] = False
        kept = self.delta.rows(~np.isin(self.delta.labels, labels))
        return replace(self, alive=None if alive.all() else alive, delta=kept)

    def rebased(self, base: Base, begun: Self) -> Self:
        """The same items over a new base that was built from the snapshot `begun` while this one came about."""
        late = self.delta.births >= begun.births
        kept = base.labels[self.contains(base.labels)]
        alive = np.isin(base.labels, np.setdiff1d(kept, self.delta.labels[late]))
        return replace(self, base=base, alive=None if alive.all() else alive, delta=self.delta.rows(late))


class _Filter(NamedTuple):
    """A mask over labels or labels, the other one None."""

    mask: BoolArray | None
    labels: IntArray | None


def _checked_filter(allowed: Allowed) -> _Filter:
    values = allowed if isinstance(allowed, np.ndarray) else np.array(list(allowed))
    if values.ndim == 1 and values.dtype == np.bool_:
        return _Filter(values.astype(np.bool_, copy=False), None)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or not values.size):
        raise DataError(f"allowed: labels or a boolean mask over labels are needed, got {values.dtype} {values.shape}")
    return _Filter(None, values.astype(np.int64))


def _permitted(permits: _Filter, labels: IntArray, places: Callable[[IntArray], Places]) -> BoolArray:
    """Which of labels [N] a filter permits; `places` finds labels among them."""
    if permits.labels is None:
        assert permits.mask is not None
        within: BoolArray = labels < len(permits.mask)
        within[within] = permits.mask[labels[within]]
        return within
    permitted = np.zeros(len(labels), dtype=np.bool_)
    positions, present = places(permits.labels)
    permitted[positions[present]] = True
    return permitted
