"""Ranking by sampled latents: the items near them, by a kernel density over the samples and nothing else.

Each sample covers one mode of a user's preference; an item's score is a sum of kernels over
samples (after ContRec, arXiv 2504.12007, which ranks by a single sample).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray, TopItems

Search = Callable[[FloatArray, int], IntArray]


class Scoring(NamedTuple):
    """How candidates are scored: by a kernel of this bandwidth, in latent units, around each sample."""

    bandwidth: float

    def score(self, candidates: Candidates) -> FloatArray:
        """Scores [U, C], -inf in padding."""
        kernel = kernel_scores(candidates.distances, self.bandwidth)
        found: FloatArray = np.where(candidates.items >= 0, kernel, -np.inf).astype(np.float32)
        return found

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


class Candidates(NamedTuple):
    """The candidate items of some users, near their samples."""

    items: IntArray  # [U, C] item indices in ascending order, padded with -1
    distances: FloatArray  # [U, S, C] squared distance to each sample; arbitrary in padding

    def take(self, rows: IntArray) -> Candidates:
        """Those of some of the users, in that order."""
        return Candidates(self.items[rows], self.distances[rows])


def find_candidates(
    samples: FloatArray,
    *,
    search: Search,
    latents: FloatArray,
    num_neighbors: int,
    excluded: Sequence[IntArray] | None,
) -> Candidates:
    """Candidates of each user: the nearest items of all its samples, with distances to every sample.

    Args:
        samples: [U, S, D].
        search: (queries [Q, D], k) -> the nearest items' indices [Q, k], padded with -1.
        latents: [N, D], item index -> latent.
        num_neighbors: nearest items of each sample, not counting those that the user excludes.
        excluded: [U] item indices that may not be candidates.
    """
    users, count, dim = samples.shape
    longest = max((len(e) for e in excluded), default=0) if excluded is not None else 0
    width = min(num_neighbors + longest, len(latents))
    flat = np.ascontiguousarray(samples.reshape(users * count, dim))
    found: npt.NDArray[np.int64] = search(flat, width).reshape(users, count, -1)
    if excluded is not None:  # a user's candidates do not depend on what others exclude
        own = num_neighbors + np.fromiter((len(e) for e in excluded), dtype=np.int64, count=users)
        found = np.where(np.arange(found.shape[2]) < own[:, None, None], found, -1)
    items = _distinct(found.reshape(users, -1), excluded)
    chosen = latents[np.maximum(items, 0)]  # [U, C, D]
    # |y|^2 + |q|^2 - 2 y q is one matrix product, and precise enough at unit scale.
    distances = -2 * samples @ chosen.transpose(0, 2, 1)
    distances += np.square(samples).sum(axis=2)[:, :, None] + np.square(chosen).sum(axis=2)[:, None, :]
    return Candidates(items, np.maximum(distances, 0))


def _distinct(found: IntArray, excluded: Sequence[IntArray] | None) -> IntArray:
    """The distinct items of each row in ascending order, without the excluded ones, padded with -1."""
    rows = [np.unique(row[row >= 0]) for row in found]
    if excluded is not None:
        rows = [np.setdiff1d(row, out) for row, out in zip(rows, excluded, strict=True)]
    items = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        items[number, : len(row)] = row
    return items


def kernel_scores(distances: FloatArray, bandwidth: float) -> FloatArray:
    """l_j = log sum_s exp(-d_sj / (2 bandwidth^2)) of squared distances [U, S, C] -> [U, C]."""
    if bandwidth <= 0:
        raise DataError(f"bandwidth={bandwidth}; it must be positive")
    logits = -distances / (2 * bandwidth**2)
    peak = logits.max(axis=1, keepdims=True)
    scores: FloatArray = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    return scores


def best_items(candidates: Candidates, scores: FloatArray, k: int) -> TopItems:
    """The `k` best candidates, best first, equal scores by item index."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # candidates are in the order of their indices
    items = np.full((len(scores), k), -1, dtype=np.int64)
    values = np.full((len(scores), k), -np.inf, dtype=np.float32)
    items[:, : order.shape[1]] = np.take_along_axis(candidates.items, order, axis=1)
    values[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    return TopItems(items, values)


def nearest_distance(candidates: Candidates) -> float:
    """The root mean square distance of a sample to its nearest item, the natural unit of a bandwidth; 1 without any."""
    masked = np.where(candidates.items[:, None, :] >= 0, candidates.distances, np.inf).min(axis=2, initial=np.inf)
    near = masked[np.isfinite(masked)]
    return float(np.sqrt(near.mean())) if len(near) and near.mean() > 0 else 1.0
