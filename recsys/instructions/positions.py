"""Which interactions of training histories become examples: one a window at most, drawn alike in every run.

A position never repeats an item of its own window, so that a prompt does not hold its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from recsys.tables import BoolArray, FloatArray, Histories, IntArray


class Position(NamedTuple):
    """An interaction, and the items before it in its window, oldest first."""

    history: IntArray
    item: int
    row: int  # of the histories' items


class TrainingPositions:
    """The interactions of training histories that are cut into windows of at most `window`, from the newest end."""

    def __init__(self, histories: Histories, window: int) -> None:
        self._items, self._indptr = histories.items, histories.indptr
        self._weights: FloatArray | None = histories.weights
        first, end = (np.repeat(bounds, histories.lengths) for bounds in (self._indptr[:-1], self._indptr[1:]))
        windows = (end - 1 - np.arange(len(self._items))) // window
        self._starts = np.maximum(first, end - (windows + 1) * window)  # [R] where the window of each row begins

    def draw(
        self, task: str, usable: BoolArray, *, limit: int, earliest: int = 1, preferred: BoolArray | None = None
    ) -> Iterator[Position]:
        """A position of each window that has one, drawn by its weight; at most `limit`, a sample of the windows.

        Args:
            task: other tasks draw other positions.
            usable: bool [R].
            earliest: the number of items that a position has at least before it.
            preferred: bool [R], taken before others of their window.
        """
        generator = np.random.default_rng(list(task.encode()))
        rows = np.flatnonzero(self._allowed(earliest) & usable)
        draws = generator.exponential(size=len(rows))
        if self._weights is not None:
            draws /= self._weights[rows]  # the least of exponential draws is each one by its share of the weights
        later = np.zeros(len(rows), np.bool_) if preferred is None else ~preferred[rows]
        rows = rows[np.lexsort((draws, later, self._starts[rows]))]
        rows = rows[np.diff(self._starts[rows], prepend=-1) > 0]
        for row in _sample(rows, limit, generator).tolist():
            yield Position(self._items[self._starts[row] : row], int(self._items[row]), row)

    def windows(self, task: str, *, limit: int) -> Iterator[tuple[int, IntArray]]:
        """Users and the items of their windows of two or more; at most `limit`, a sample of them."""
        last = np.flatnonzero(np.diff(self._starts, append=-1))
        last = last[last > self._starts[last]]
        for row in _sample(last, limit, np.random.default_rng(list(task.encode()))).tolist():
            user = int(np.searchsorted(self._indptr, row, side="right")) - 1
            yield user, self._items[self._starts[row] : row + 1]

    def _allowed(self, earliest: int) -> BoolArray:
        """[R], the first interactions of their window with an item, if they weigh more than 0."""
        allowed = self._first & (np.arange(len(self._items)) - self._starts >= earliest)
        return allowed if self._weights is None else allowed & (self._weights > 0)

    @cached_property
    def _first(self) -> BoolArray:
        """[R], the interactions whose item is new to their window."""
        keys = self._starts * (int(self._items.max(initial=0)) + 1) + self._items
        first = np.zeros(len(keys), np.bool_)
        first[np.unique(keys, return_index=True)[1]] = True
        return first


def _sample(rows: IntArray, limit: int, generator: np.random.Generator) -> IntArray:
    return rows if len(rows) <= limit else np.sort(generator.choice(rows, limit, replace=False))
