"""An immutable state of an item index: a base, a mask of its removed items, and the items added since.

A change makes a new snapshot that shares unchanged arrays; a reader of an older snapshot sees no later change.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from recsys.errors import DataError
from recsys.retrieval.base import Base, Lookup, find_labels
from recsys.retrieval.exact import SearchResult, distances_to, ranked, scan
from recsys.tables import BoolArray, FloatArray, IntArray

Allowed = BoolArray | IntArray | Set[int]


class Delta(NamedTuple):
    """Items added since the base was built, searched exactly: `labels` [A] ascending, `vectors` [A, D].

    `addition_ids` [A] number the additions, so that a compaction knows which came after it had begun.
    """

    labels: IntArray
    vectors: FloatArray
    addition_ids: IntArray

    def rows(self, keep: BoolArray | IntArray) -> Delta:
        return Delta(self.labels[keep], self.vectors[keep], self.addition_ids[keep])


class Live(NamedTuple):
    """All items: `labels` [N] ascending, `vectors` [N, D]."""

    labels: IntArray
    vectors: FloatArray


@dataclass(frozen=True, repr=False)
class Snapshot:
    """`alive` [len(base)] is False for removed items of the base, or None without any; `num_additions` only grows."""

    base: Base
    alive: BoolArray | None
    delta: Delta
    num_additions: int = 0

    @classmethod
    def of(cls, base: Base) -> Self:
        """A base without changes."""
        nothing = Delta(np.empty(0, np.int64), np.empty((0, base.vectors.shape[1]), np.float32), np.empty(0, np.int64))
        return cls(base, None, nothing)

    def __len__(self) -> int:
        removed = 0 if self.alive is None else len(self.alive) - int(np.count_nonzero(self.alive))
        return len(self.base) - removed + len(self.delta.labels)

    def live(self) -> Live:
        """A copy of all items, in the order of their labels."""
        kept = slice(None) if self.alive is None else self.alive
        labels = np.concatenate([self.base.labels[kept], self.delta.labels])
        order = np.argsort(labels)
        return Live(labels[order], np.concatenate([self.base.vectors[kept], self.delta.vectors])[order])

    def contains(self, labels: IntArray) -> BoolArray:
        """[N], which labels are in the index."""
        positions, present = self.base.find(labels)
        if self.alive is not None:
            present = present & self.alive[positions]
        either: BoolArray = present | find_labels(self.delta.labels, labels).present
        return either

    def search(self, queries: FloatArray, k: int, allowed: Allowed | None = None) -> SearchResult:
        """The k nearest alive and allowed items of checked queries [Q, D]; see `ItemIndex.search`."""
        base, delta, metric = self.base, self.delta, self.base.metric
        mask = self.alive
        if allowed is not None:
            item_filter = _checked_filter(allowed)
            within = _allowed_mask(item_filter, base.labels, base.find)
            mask = within if mask is None else within & mask
            delta = delta.rows(_allowed_mask(item_filter, delta.labels, partial(find_labels, delta.labels)))
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
            raise DataError(f"label {used[0]} is in the index already; remove it before adding its new vector")
        numbers = np.arange(self.num_additions, self.num_additions + len(labels))
        added = Delta(
            np.concatenate([self.delta.labels, labels]),
            np.concatenate([self.delta.vectors, vectors]),
            np.concatenate([self.delta.addition_ids, numbers]),
        )
        return replace(self, delta=added.rows(np.argsort(added.labels)), num_additions=self.num_additions + len(labels))

    def removing(self, labels: IntArray) -> Self:
        """Without some items.

        Raises:
            DataError: a label is not in the index.
        """
        missing = labels[~self.contains(labels)]
        if len(missing):
            raise DataError(f"label {missing[0]} is not in the index; remove only labels that are in it")
        positions, present = self.base.find(labels)
        alive = np.ones(len(self.base), dtype=np.bool_) if self.alive is None else self.alive.copy()
        alive[positions[present]] = False
        kept = self.delta.rows(~np.isin(self.delta.labels, labels))
        return replace(self, alive=None if alive.all() else alive, delta=kept)

    def rebased(self, base: Base, begun: Self) -> Self:
        """The same items over a new base, which was built from the earlier snapshot `begun` of this index."""
        late = self.delta.addition_ids >= begun.num_additions
        kept = base.labels[self.contains(base.labels)]
        alive = np.isin(base.labels, np.setdiff1d(kept, self.delta.labels[late]))
        return replace(self, base=base, alive=None if alive.all() else alive, delta=self.delta.rows(late))


class _Filter(NamedTuple):
    """Either a mask over labels, or labels; the other one is None."""

    mask: BoolArray | None
    labels: IntArray | None


def _checked_filter(allowed: Allowed) -> _Filter:
    values = allowed if isinstance(allowed, np.ndarray) else np.array(list(allowed))
    if values.ndim == 1 and values.dtype == np.bool_:
        return _Filter(values.astype(np.bool_, copy=False), None)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or not values.size):
        raise DataError(f"allowed: labels or a boolean mask over labels are needed, got {values.dtype} {values.shape}")
    return _Filter(None, values.astype(np.int64))


def _allowed_mask(item_filter: _Filter, labels: IntArray, find: Callable[[IntArray], Lookup]) -> BoolArray:
    """[N], which of `labels` a filter allows; `find` looks labels up among them."""
    if item_filter.labels is None:
        assert item_filter.mask is not None
        within: BoolArray = labels < len(item_filter.mask)
        within[within] = item_filter.mask[labels[within]]
        return within
    allowed = np.zeros(len(labels), dtype=np.bool_)
    positions, present = find(item_filter.labels)
    allowed[positions[present]] = True
    return allowed
