"""An order of items in memory with near items side by side, which reduces cache misses of graph search."""

from __future__ import annotations

import math

import numpy as np

from recsys.retrieval.library import import_faiss
from recsys.tables import FloatArray, IntArray

_ROWS_A_LEAF, _SAMPLED_A_CENTRE, _ITERATIONS = 32, 64, 5


def locality_order(vectors: FloatArray, *, seed: int) -> IntArray:
    """A permutation [N] of vectors [N, D] with near ones side by side: by k-means, and by k-means within each part.

    With a million items a search is a seventh faster than after one level of k-means, and that is a seventh faster than
    without any order.
    """
    parts = _parts(vectors, math.isqrt(len(vectors)), seed=seed)
    leaves = [rows[leaf] for rows in parts for leaf in _parts(vectors[rows], len(rows), seed=seed)]
    return np.concatenate(leaves)


def _parts(vectors: FloatArray, most: int, *, seed: int) -> list[IntArray]:
    """Rows by nearest k-means centre, centres ordered along a nearest-neighbour chain; at most `most` parts."""
    count = min(most, len(vectors) // _ROWS_A_LEAF)
    if count < 2:
        return [np.arange(len(vectors))]
    kmeans = import_faiss().Kmeans(
        vectors.shape[1],
        count,
        niter=_ITERATIONS,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=_SAMPLED_A_CENTRE,
    )
    kmeans.train(vectors)
    nearest: IntArray = kmeans.index.search(vectors, 1)[1][:, 0]
    by_centre = np.argsort(nearest, kind="stable")
    parts = np.split(by_centre, np.searchsorted(nearest[by_centre], np.arange(1, count)))
    return [parts[centre] for centre in _chain(kmeans.centroids)]


def _chain(points: FloatArray) -> IntArray:
    """A greedy nearest-neighbour path over points [C, D], from the first."""
    chain = np.zeros(len(points), dtype=np.int64)
    unvisited = np.ones(len(points), dtype=np.bool_)
    for step in range(1, len(points)):
        unvisited[chain[step - 1]] = False
        distances = np.square(points - points[chain[step - 1]]).sum(axis=1)
        chain[step] = np.where(unvisited, distances, np.inf).argmin()
    return chain
