"""Filters: which items have a value in a text column, where paths (`A > B`) are found under each of their beginnings.

Reads a catalogue; knows item indices only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from recsys.data.texts import PATH
from recsys.errors import DataError
from recsys.tables import Catalog, IntArray

_MOST_VALUES, _ITEMS_A_VALUE, _LONGEST = 5000, 2, 200
_SEVERAL = re.compile(r"[;|]")

Facet = dict[str, IntArray]


class Facets:
    """Columns that can be filtered by: those whose values are few and shared, so no titles and no descriptions."""

    def __init__(self, catalog: Catalog) -> None:
        self._num_items = len(catalog)
        made = {name: _facet(catalog.frame[name].to_list()) for name in catalog.text_columns if name != "title"}
        self._columns = {name: facet for name, facet in made.items() if facet is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def mask(self, column: str, values: Iterable[str]) -> npt.NDArray[np.bool_]:
        """[N], the items that have one of the values; a value that no item has adds none.

        Raises:
            DataError: the column cannot be filtered by.
        """
        mask = np.zeros(self._num_items, dtype=np.bool_)
        for value in values:
            mask[self._column(column).get(value, [])] = True
        return mask

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        """The values that most items have, with their numbers.

        Raises:
            DataError: the column cannot be filtered by.
        """
        counts = ((value, len(items)) for value, items in self._column(column).items())
        return tuple(sorted(counts, key=lambda entry: (-entry[1], entry[0]))[:limit])

    def _column(self, name: str) -> Facet:
        if name not in self._columns:
            known = ", ".join(self._columns) or "none"
            raise DataError(f"where: {name[:100]!r} is no column to filter by; there are: {known}")
        return self._columns[name]


def _facet(texts: list[str | None]) -> Facet | None:
    """value -> items; None for a column of free text."""
    items: dict[str, list[int]] = defaultdict(list)
    distinct = {text for text in texts if text}
    if not distinct or max(map(len, distinct)) > 10 * _LONGEST:
        return None
    for item, text in enumerate(texts):
        for value in _values(text or ""):
            items[value].append(item)
    shared = sum(map(len, items.values())) >= _ITEMS_A_VALUE * len(items)
    if not shared or len(items) > _MOST_VALUES or max(map(len, items)) > _LONGEST:
        return None
    return {value: np.array(found, dtype=np.int64) for value, found in items.items()}


def _values(text: str) -> set[str]:
    """Every path of a text, and every beginning of each."""
    found = set()
    for path in _SEVERAL.split(text):
        parts = [part.strip() for part in path.split(PATH.strip())]
        found |= {PATH.join(parts[:depth]) for depth in range(1, len(parts) + 1) if all(parts[:depth])}
    return found
