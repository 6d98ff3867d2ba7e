"""Measures of discrete and continuous tokens: the error of reconstruction, and whether neighbours stay neighbours."""

from __future__ import annotations

import numpy as np

from recsys.tables import FloatArray, IntArray

_NEIGHBOURS = 10
_NEIGHBOUR_QUERIES = 1000


def relative_error(decoded: FloatArray, vectors: FloatArray) -> float:
    """Mean squared error of decoded [N, D] over the variance of vectors [N, D]."""
    variance = float(np.square(vectors - vectors.mean(axis=0)).mean(dtype=np.float64))
    return float(np.square(decoded - vectors).mean(dtype=np.float64)) / max(variance, 1e-12)


def neighbours_kept(before: FloatArray, after: FloatArray, generator: np.random.Generator) -> float | None:
    """Share of an item's 10 nearest in `before` [N, D] that are among its 10 nearest in `after` [N, d].

    Measured on at most 1000 items that the generator draws; None where 11 items or fewer make every item a neighbour.
    """
    if len(before) <= _NEIGHBOURS + 1:
        return None
    queries = generator.choice(len(before), size=min(_NEIGHBOUR_QUERIES, len(before)), replace=False)
    pairs = zip(_nearest_items(before, queries), _nearest_items(after, queries), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / _NEIGHBOURS for a, b in pairs]))


def _nearest_items(points: FloatArray, queries: IntArray) -> IntArray:
    """The 10 nearest other points [Q, 10] of each query."""
    squares = np.square(points).sum(axis=1)
    found = np.empty((len(queries), _NEIGHBOURS), dtype=np.int64)
    for row, query in enumerate(queries):
        distances = squares - 2 * points @ points[query]
        distances[query] = np.inf
        found[row] = np.argpartition(distances, _NEIGHBOURS)[:_NEIGHBOURS]
    return found
