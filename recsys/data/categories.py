"""Categories of items, from text columns that hold paths (`A > B`), several of them separated by `;` or `|`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.tables import Catalog, IntArray

Path = tuple[str, ...]

CATEGORY_COLUMNS = ("categories", "category", "genres", "genre")
_SEVERAL = re.compile(r"[;|]")
_SEPARATOR, _LABEL_DEPTH = ">", 3  # "Beauty > Hair Care > Styling Products > Gels" is labelled by its first three


def category_paths(text: str | None) -> list[Path]:
    """The category paths of a text, without empty parts and empty paths: "A > B; C" -> [("A", "B"), ("C",)]."""
    paths = (tuple(filter(None, map(str.strip, path.split(_SEPARATOR)))) for path in _SEVERAL.split(text or ""))
    return [path for path in paths if path]


def path_label(path: Path) -> str:
    """("A", "B") -> "A > B"."""
    return f" {_SEPARATOR} ".join(path)


def first_paths(catalog: Catalog) -> list[Path] | None:
    """The first category path of each item, empty where it has none; None where no column holds categories."""
    column = next((name for name in CATEGORY_COLUMNS if name in catalog.text_columns), None)
    if column is None:
        return None
    return [next(iter(category_paths(text)), ()) for text in catalog.frame[column].to_list()]


def item_categories(catalog: Catalog) -> list[str | None] | None:
    """One label an item: the first three parts of its first path, None without one; None without such a column."""
    paths = first_paths(catalog)
    return None if paths is None else [path_label(path[:_LABEL_DEPTH]) or None for path in paths]


class CategoryCodes(NamedTuple):
    """The category of each item by number: `codes` [N] are below `number`, -1 for items without one."""

    codes: IntArray
    number: int

    @classmethod
    def of_labels(cls, labels: Sequence[str | None] | None) -> CategoryCodes | None:
        """Of one label an item; None where the catalogue has no categories, or one alone."""
        known = sorted({label for label in labels or () if label is not None})
        if len(known) < 2:
            return None
        numbers = {label: code for code, label in enumerate(known)}
        return cls(np.array([-1 if label is None else numbers[label] for label in labels or ()]), len(known))
