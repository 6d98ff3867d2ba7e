"""Texts about users, composed from the catalogue: what they look for, what they prefer.

Made of categories, brands and words of titles; the same items always give the same text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from recsys.data.categories import CATEGORY_COLUMNS, category_paths
from recsys.tables import BoolArray, Catalog

BRAND_COLUMNS = ("brand", "store", "manufacturer", "author", "artist", "publisher")
_WORD = re.compile(r"[^\W\d_]{3,}")
_GENRES = re.compile(r"\s*,\s*")
_FORMS = (("category", "brand"), ("words", "category"), ("words", "brand"))
_SHARED = 2  # items that have a word, category or brand in common


class CatalogTexts:
    """Titles, descriptions, categories and brands of the items, "" where there is none."""

    def __init__(self, catalog: Catalog) -> None:
        self.titles = _column(catalog, ("title",))
        self.descriptions = _column(catalog, ("description",))
        self._categories = _column(catalog, CATEGORY_COLUMNS)
        self._lists = next((c for c in CATEGORY_COLUMNS if c in catalog.text_columns), "").startswith("genre")
        self._brands = _column(catalog, BRAND_COLUMNS)
        self._counts = Counter(word for title in self.titles for word in _words(title))

    @cached_property
    def described(self) -> BoolArray:
        """[N], the items that `intention` has a text for."""
        return np.array([bool(self.intention(item, 0)) for item in range(len(self.titles))], np.bool_)

    def intention(self, item: int, form: int) -> str:
        """What a user who looks for an item may ask for, in one of several forms; "" where nothing is known of it."""
        parts = {
            "category": next(iter(self._leaves(item)), ""),
            "brand": self._brands[item],
            "words": " ".join(self._known_words(item)),
        }
        chosen = [parts[name] for name in _FORMS[form % len(_FORMS)] if parts[name]]
        return ", ".join(chosen or [text for text in parts.values() if text][:1])

    def preference(self, items: Iterable[int]) -> str:
        """What the items of a history have in common; "" where that is nothing."""
        distinct = sorted(set(items))
        categories = _common((leaf for item in distinct for leaf in self._leaves(item)), 2)
        brands = _common((self._brands[item] for item in distinct), 1)
        words = Counter(word for item in distinct for word in _words(self.titles[item]))
        rated = {word: n * math.log(len(self.titles) / self._counts[word]) for word, n in words.items() if n >= _SHARED}
        best = sorted((word for word in rated if rated[word] > 0), key=lambda word: (-rated[word], word))[:3]
        parts = (("Categories: ", categories), ("Brand: ", brands), ("Words: ", best))
        return " ".join(f"{name}{', '.join(texts)}." for name, texts in parts if texts)

    def _leaves(self, item: int) -> list[str]:
        """The last part of each category path, or the genres of a list."""
        leaves = [path[-1] for path in category_paths(self._categories[item])]
        split = [part for leaf in leaves for part in _GENRES.split(leaf)] if self._lists else leaves
        return list(dict.fromkeys(filter(None, split)))

    def _known_words(self, item: int) -> list[str]:
        """The two rarest words of a title that other titles have too, in its order."""
        words = [word for word in _words(self.titles[item]) if self._counts[word] >= _SHARED]
        rarest = sorted(words, key=lambda word: (self._counts[word], word))[:2]
        return [word for word in words if word in rarest]


def _column(catalog: Catalog, names: Sequence[str]) -> list[str]:
    """The first of some columns that the catalogue has."""
    name = next((name for name in names if name in catalog.text_columns), None)
    if name is None:
        return [""] * len(catalog)
    return catalog.frame[name].fill_null("").str.strip_chars().to_list()


def _words(title: str) -> list[str]:
    """Each word of a title once, in its order."""
    return list(dict.fromkeys(word.lower() for word in _WORD.findall(title)))


def _common(names: Iterable[str], number: int) -> list[str]:
    """Those that two or more items have, the most frequent first."""
    counts = Counter(name for name in names if name)
    return sorted((n for n in counts if counts[n] >= _SHARED), key=lambda name: (-counts[name], name))[:number]
