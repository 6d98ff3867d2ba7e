"""What codes mean, in words: those that are common to the items that carry a code, and rare among the others.

Reads the items' texts and semantic ids; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

from recsys.tables import SemanticIds

_WORD = r"(?u)(?<![\w])[^\W\d_]{2,}(?![\w])"  # letters alone
MIN_RATIO = 2.0  # how many times as common as among the other items a word has to be

Code = tuple[int, int]
"""Level and code."""


class CodeWords:
    """Words of the codes of a catalogue.

    Args:
        texts: one an item, in catalogue order.
    """

    def __init__(self, texts: Sequence[str], semantic_ids: SemanticIds) -> None:
        self._codes = semantic_ids.codes
        vectorizer = CountVectorizer(binary=True, token_pattern=_WORD, dtype=np.int32)
        try:
            self._counts = csr_matrix(vectorizer.fit_transform(texts))  # [N, V], 1 where an item has a word
            self._words: list[str] = vectorizer.get_feature_names_out().tolist()
        except ValueError:  # raised by scikit-learn for texts without a single word
            self._counts, self._words = csr_matrix(np.zeros((len(texts), 0), np.int32)), []
        self._items_with = np.asarray(self._counts.sum(axis=0)).reshape(-1)  # [V]

    def of(self, codes: Iterable[Code], *, count: int = 3) -> dict[Code, tuple[str, ...]]:
        """At most `count` words of each code, the most telling first; none where no word tells it apart."""
        return {code: self._of(*code, count) for code in dict.fromkeys(codes)}

    def _of(self, level: int, code: int, count: int) -> tuple[str, ...]:
        items = np.flatnonzero(self._codes[:, level] == code)
        if not len(items):
            return ()
        having = np.asarray(self._counts[items].sum(axis=0)).reshape(-1)
        inside = having / len(items)
        # Laplace's rule of succession: a word that no other item has is not infinitely rare.
        outside = (self._items_with - having + 1) / (len(self._codes) - len(items) + 2)
        ratio = inside / outside
        telling = np.flatnonzero((ratio >= MIN_RATIO) & (having >= min(2, len(items))))
        scores = inside[telling] * np.log(ratio[telling])
        best = telling[np.argsort(-scores, kind="stable")[:count]]  # equal ones in the order of the alphabet
        return tuple(self._words[word] for word in best)
