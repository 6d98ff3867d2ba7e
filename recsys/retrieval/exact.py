"""Validation of vectors and labels, exact distances, and exact search.

Distances are smaller for nearer items, whatever the metric: squared Euclidean (`l2`), the negative inner product
(`inner-product`), one minus the cosine (`cosine`, computed on unit vectors).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.retrieval.config import Metric
from recsys.retrieval.library import import_faiss
from recsys.tables import FloatArray, IntArray

_LARGEST = 1e15  # sums of squares stay finite in float32
SPARE = 16  # FAISS rounds distances differently: so many more candidates are fetched, then ordered exactly


class SearchResult(NamedTuple):
    """The nearest items of Q queries, nearest first, equal distances by label.

    `labels` is int64 [Q, k] padded with -1, `distances` float32 [Q, k] padded with inf.
    """

    labels: IntArray
    distances: FloatArray


def checked_vectors(values: npt.ArrayLike, *, name: str, metric: Metric, width: int | None = None) -> FloatArray:
    """A float32 copy [N, D] of valid vectors, of unit length where the metric is `cosine`.

    Raises:
        DataError: another shape or width, NaN, infinite or larger than 1e15, or of length zero under `cosine`.
    """
    try:
        vectors = _float32(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: numbers [N, D] are needed, got {type(values).__name__} ({error})") from error
    if vectors.ndim != 2 or vectors.shape[1] == 0 or (width is not None and vectors.shape[1] != width):
        raise DataError(f"{name}: shape {vectors.shape}, needed is [N, {width or 'D'}]")
    if (
        not np.vdot(vectors, vectors) <= _LARGEST**2 and not np.abs(vectors).max() <= _LARGEST
    ):  # NaN fails both comparisons
        raise DataError(f"{name}: NaN, infinite or larger than {_LARGEST:.0e} in size; every value must be a number")
    if metric == "cosine":
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        if not lengths.all():
            raise DataError(f"{name}: row {int(lengths.argmin())} is all zeros and has no cosine; leave it out")
        vectors /= lengths[:, None]
    return vectors


def _float32(values: npt.ArrayLike) -> FloatArray:
    """A copy; float32 input skips the overflow guard, which costs as much as copying one query."""
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        return np.array(values, order="C", ndmin=1)
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32, order="C", ndmin=1)


def checked_labels(values: npt.ArrayLike, *, count: int | None = None) -> IntArray:
    """Labels int64 [N], distinct and not negative, as many as `count` says.

    Raises:
        DataError: they are not.
    """
    labels = np.array(values, ndmin=1)
    if labels.size == 0:
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels: integers [N] are needed, got {labels.dtype} {labels.shape}")
    if count is not None and len(labels) != count:
        raise DataError(f"labels: got {len(labels)} labels for {count} vectors")
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(f"labels: {labels.min()} is negative; labels start at 0, as -1 is padding")
    if len(np.unique(labels)) != len(labels):
        raise DataError("labels: a label occurs twice; every vector needs its own")
    return labels


def faiss_metric(metric: Metric) -> int:
    """FAISS's constant of a metric; cosine is Euclidean on unit vectors."""
    faiss = import_faiss()
    constant: int = faiss.METRIC_INNER_PRODUCT if metric == "inner-product" else faiss.METRIC_L2
    return constant


def distances_to(queries: FloatArray, vectors: FloatArray, positions: IntArray, metric: Metric) -> FloatArray:
    """Exact distances [Q, M] of queries [Q, D] to rows `positions` [Q, M] of vectors [N, D]; undefined for -1."""
    faiss, positions = import_faiss(), np.ascontiguousarray(positions)
    out = np.empty(positions.shape, dtype=np.float32)
    compute = faiss.fvec_inner_products_by_idx if metric == "inner-product" else faiss.fvec_L2sqr_by_idx
    arrays = [faiss.swig_ptr(array) for array in (out, queries, vectors, positions)]
    compute(*arrays, vectors.shape[1], *positions.shape)
    return as_distances(out, metric)


def as_distances(values: FloatArray, metric: Metric) -> FloatArray:
    """Convert what FAISS computes to distances in place, so that smaller is nearer."""
    if metric == "inner-product":
        np.negative(values, out=values)
    elif metric == "cosine":
        values /= 2
    return values


def scan(queries: FloatArray, vectors: FloatArray, k: int, metric: Metric) -> IntArray:
    """Positions [Q, m] in vectors [N, D] that include the k nearest, by brute force; m >= min(k, N)."""
    count = min(k + SPARE, len(vectors))
    if count == len(vectors) or not len(queries):
        return np.broadcast_to(np.arange(count), (len(queries), count))
    positions: IntArray = import_faiss().knn(queries, vectors, count, metric=faiss_metric(metric))[1]
    return positions


def ranked(labels: IntArray, distances: FloatArray, k: int) -> SearchResult:
    """The first k of candidates [Q, M] by distance, then label; padded to k with -1 and inf."""
    if labels.shape[1] >= k and (distances[:, 1:] > distances[:, :-1]).all():
        return SearchResult(labels[:, :k], distances[:, :k])
    order = np.lexsort((labels, distances), axis=-1)[:, :k]
    rows = np.arange(len(labels))[:, None]
    found = SearchResult(labels[rows, order], distances[rows, order])
    missing = k - order.shape[1]
    if missing <= 0:
        return found
    padding = ((0, 0), (0, missing))
    return SearchResult(
        np.pad(found.labels, padding, constant_values=-1), np.pad(found.distances, padding, constant_values=np.inf)
    )
