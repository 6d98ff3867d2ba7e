"""Filters: which items have a value in a text column, where paths (`A > B`) are found under each of their beginnings.

Reads a catalogue; knows item indices only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from recsys.data.categories import category_paths, path_label
from recsys.errors import DataError
from recsys.tables import Catalog, IntArray

_MOST_VALUES, _ITEMS_A_VALUE, _LONGEST = 5000, 2, 200

ValueItems = dict[str, IntArray]


class FilterIndex:
    """Columns that can be filtered by: those whose values are few and shared, so no titles and no descriptions.

    `columns` names them where they are known: what is added later takes no filter away.
    """

    def __init__(self, catalog: Catalog, columns: Sequence[str] | None = None) -> None:
        self._num_items = len(catalog)
        names = [name for name in catalog.text_columns if name != "title"] if columns is None else columns
        made = {name: _facet(catalog.frame[name].to_list()) for name in names}
        self._columns = {name: facet for name, facet in made.items() if columns is not None or _is_shared(facet)}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def mask(self, column: str, values: Iterable[str]) -> npt.NDArray[np.bool_]:
        """[N], the items that have one of the values; a value that no item has adds none.

        Raises:
            DataError: the column cannot be filtered by.
        """
        mask, facet = np.zeros(self._num_items, dtype=np.bool_), self._column(column)
        for value in values:
            mask[facet.get(value, [])] = True
        return mask

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        """The values that most items have, with their numbers.

        Raises:
            DataError: the column cannot be filtered by.
        """
        counts = ((value, len(items)) for value, items in self._column(column).items())
        return tuple(sorted(counts, key=lambda entry: (-entry[1], entry[0]))[:limit])

    def _column(self, name: str) -> ValueItems:
        if name not in self._columns:
            known = ", ".join(self._columns) or "none"
            raise DataError(f"where: {name[:100]!r} is no column to filter by; there are: {known}")
        return self._columns[name]


def _facet(texts: list[str | None]) -> ValueItems:
    """value -> items; values that nobody would choose from a list are left out."""
    items: dict[str, list[int]] = defaultdict(list)
    for item, text in enumerate(texts):
        for value in _values(text or ""):
            if len(value) <= _LONGEST:
                items[value].append(item)
    return {value: np.array(found, dtype=np.int64) for value, found in items.items()}


def _is_shared(facet: ValueItems) -> bool:
    return 0 < len(facet) <= _MOST_VALUES and sum(map(len, facet.values())) >= _ITEMS_A_VALUE * len(facet)


def _values(text: str) -> set[str]:
    """Every path of a text, and every beginning of each."""
    return {path_label(path[:depth]) for path in category_paths(text) for depth in range(1, len(path) + 1)}
