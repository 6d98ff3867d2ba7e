"""Prefix search of items by the words of their titles: an inverted index in memory.

Reads titles; item indices only, no ids.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from recsys.tables import BoolArray, IntArray

_WORD = re.compile(r"\w+")
_LAST = "\U0010ffff"


def words(text: str) -> list[str]:
    """Words of a text, normalised: without case, width or accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


class TitleIndex:
    """Items by the prefixes of their titles' words; `titles` has one per item."""

    def __init__(self, titles: Sequence[str]) -> None:
        items: dict[str, list[int]] = defaultdict(list)
        self._plain = [" ".join(words(title)) for title in titles]
        for item, plain in enumerate(self._plain):
            for word in set(plain.split()):
                items[word].append(item)
        self._words = sorted(items)
        self._items = [np.array(items[word], dtype=np.int64) for word in self._words]

    def search(self, text: str, popularity: IntArray, limit: int, visible: BoolArray | None = None) -> list[int]:
        """Item indices whose title has a word beginning with each word of the text.

        Titles that begin with the whole text come first, then the most popular items. `visible` [N] leaves items out.
        """
        query = words(text)
        if not query:
            return []
        found: IntArray | None = None
        for word in sorted(query, key=len, reverse=True):
            matching = self._with_prefix(word)
            found = matching if found is None else np.intersect1d(found, matching, assume_unique=True)
            if not len(found):
                return []
        assert found is not None
        found = found if visible is None else found[visible[found]]
        start = " ".join(query)
        order = sorted(found.tolist(), key=lambda i: (not self._plain[i].startswith(start), -popularity[i], i))
        return order[:limit]

    def _with_prefix(self, word: str) -> IntArray:
        """Items with a word of this prefix, ascending."""
        first, last = bisect_left(self._words, word), bisect_left(self._words, word + _LAST)
        if first == last:
            return np.empty(0, dtype=np.int64)
        return self._items[first] if last == first + 1 else np.unique(np.concatenate(self._items[first:last]))
