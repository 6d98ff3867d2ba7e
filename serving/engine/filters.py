"""Filters: the items that have a value in a text column; a path (`A > B`) counts as each of its prefixes too.

Reads a catalogue; item indices only, no ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from recsys.data.categories import category_paths, path_label
from recsys.errors import DataError
from recsys.tables import Catalog, IntArray

_MAX_VALUES, _MIN_SHARED, _MAX_LENGTH = 5000, 2, 200

ValueItems = dict[str, IntArray]


class FilterIndex:
    """Columns that can be filtered by: those with few, shared values, unlike titles and descriptions.

    `columns` fixes them, so that items added later do not remove a filter.
    """

    def __init__(self, catalog: Catalog, columns: Sequence[str] | None = None) -> None:
        self._num_items = len(catalog)
        names = [name for name in catalog.text_columns if name != "title"] if columns is None else columns
        indexed = {name: _items_by_value(catalog.frame[name].to_list()) for name in names}
        self._columns = {name: items for name, items in indexed.items() if columns is not None or _is_shared(items)}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def mask(self, column: str, values: Iterable[str]) -> npt.NDArray[np.bool_]:
        """[N], the items that have one of the values; unknown values match none.

        Raises:
            DataError: the column cannot be filtered by.
        """
        mask, items = np.zeros(self._num_items, dtype=np.bool_), self._column(column)
        for value in values:
            mask[items.get(value, [])] = True
        return mask

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        """The most frequent values, with their numbers of items; raises as `mask`."""
        counts = ((value, len(items)) for value, items in self._column(column).items())
        return tuple(sorted(counts, key=lambda entry: (-entry[1], entry[0]))[:limit])

    def _column(self, name: str) -> ValueItems:
        if name not in self._columns:
            known = ", ".join(self._columns) or "none"
            raise DataError(f"where: {name[:100]!r} cannot be filtered by; filter columns are: {known}")
        return self._columns[name]


def _items_by_value(texts: list[str | None]) -> ValueItems:
    """value -> items; long values are left out."""
    items: dict[str, list[int]] = defaultdict(list)
    for item, text in enumerate(texts):
        for value in _values(text or ""):
            if len(value) <= _MAX_LENGTH:
                items[value].append(item)
    return {value: np.array(found, dtype=np.int64) for value, found in items.items()}


def _is_shared(items: ValueItems) -> bool:
    return 0 < len(items) <= _MAX_VALUES and sum(map(len, items.values())) >= _MIN_SHARED * len(items)


def _values(text: str) -> set[str]:
    """Every path of a text, and every prefix of each."""
    return {path_label(path[:depth]) for path in category_paths(text) for depth in range(1, len(path) + 1)}
