"""Ranking by sampled latents: nearest items, a kernel density over the samples, and two additive priors.

Each sample covers one mode of a user's preference; an item's score is a sum of kernels over
samples (after ContRec, arXiv 2504.12007, which ranks by a single sample).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray, TopItems

Search = Callable[[FloatArray, int], IntArray]
CUTOFF = 10  # scoring is chosen by validation NDCG at this length
BANDWIDTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)  # times the root mean square distance of a sample to its nearest item
POPULARITY = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0)
AGREEMENT = (0.0, 0.25, 0.5, 1.0, 2.0)


class Scoring(NamedTuple):
    """How candidates are scored: kernel bandwidth in latent units, and the weights of the two priors."""

    bandwidth: float
    popularity: float = 0.0
    agreement: float = 0.0

    def score(self, candidates: Candidates) -> FloatArray:
        """Scores [U, C], -inf in padding."""
        kernel = kernel_scores(candidates.distances, self.bandwidth)
        scores = kernel + self.popularity * candidates.popularity + self.agreement * candidates.agreement
        found: FloatArray = np.where(candidates.items >= 0, scores, -np.inf).astype(np.float32)
        return found

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


class Candidates(NamedTuple):
    """The candidate items of some users, near their samples, with the inputs of scoring."""

    items: IntArray  # [U, C] item indices in ascending order, padded with -1
    distances: FloatArray  # [U, S, C] squared distance to each sample; arbitrary in padding
    popularity: FloatArray  # [U, C] standardized log count of training interactions
    agreement: FloatArray  # [U, C] log probability of the item's category under the generated items; 0 if unknown


def log_popularity(counts: IntArray) -> FloatArray:
    """log(1 + interactions) of each item [N], standardized over the catalogue."""
    logs = np.log1p(counts.astype(np.float64))
    spread = logs.std()
    scaled: FloatArray = ((logs - logs.mean()) / (spread if spread > 0 else 1.0)).astype(np.float32)
    return scaled


def find_candidates(
    samples: FloatArray,
    *,
    search: Search,
    latents: FloatArray,
    num_neighbors: int,
    excluded: Sequence[IntArray] | None,
    popularity: FloatArray,
    agreement: FloatArray | None = None,
) -> Candidates:
    """Candidates of each user: the nearest items of all its samples, with distances to every sample.

    Args:
        samples: [U, S, D].
        search: (queries [Q, D], k) -> the nearest items' indices [Q, k], padded with -1.
        latents: [N, D], item index -> latent.
        num_neighbors: nearest items of each sample, not counting those that the user excludes.
        excluded: [U] item indices that may not be candidates.
        popularity: [N], from `log_popularity`.
        agreement: [U, N], from `category_agreement`.
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
    indices = np.maximum(items, 0)
    chosen = latents[indices]  # [U, C, D]
    # |y|^2 + |q|^2 - 2 y q is one matrix product, and precise enough at unit scale.
    distances = -2 * samples @ chosen.transpose(0, 2, 1)
    distances += np.square(samples).sum(axis=2)[:, :, None] + np.square(chosen).sum(axis=2)[:, None, :]
    agreed = np.zeros(items.shape, np.float32) if agreement is None else np.take_along_axis(agreement, indices, axis=1)
    return Candidates(items, np.maximum(distances, 0), popularity[indices], agreed)


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


def category_agreement(generated: TopItems, categories: IntArray, num_categories: int) -> FloatArray:
    """Log-probability [U, N] of each item's category under the items that the language model generates.

    The probability of each generated item counts for its category, and a tenth of the mass is spread uniformly, so
    that no category is excluded. Items without a category, and users without a generated item, get the mean.

    Args:
        generated: items [U, k] with log-probabilities.
        categories: [N] category of each item, -1 = none.
    """
    users = len(generated.items)
    listed = (generated.items >= 0) & (categories[np.maximum(generated.items, 0)] >= 0)
    scores = np.where(listed, generated.scores, -np.inf)
    peak = np.where(listed.any(axis=1), scores.max(axis=1, initial=-np.inf), 0)
    weights = np.exp(scores - peak[:, None])
    mass = np.zeros((users, num_categories))
    rows, columns = np.nonzero(listed)
    np.add.at(mass, (rows, categories[generated.items[rows, columns]]), weights[rows, columns])
    total = mass.sum(axis=1, keepdims=True)
    share = np.where(total > 0, 0.9 * mass / np.where(total > 0, total, 1), 0) + 0.1 / num_categories
    logs = np.log(share / share.sum(axis=1, keepdims=True))
    padded = np.concatenate([logs, logs.mean(axis=1, keepdims=True)], axis=1)
    return padded[:, categories].astype(np.float32)  # category -1 is the last column


def best_items(candidates: Candidates, scores: FloatArray, k: int) -> TopItems:
    """The `k` best candidates, best first, equal scores by item index."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # candidates are in the order of their indices
    items = np.full((len(scores), k), -1, dtype=np.int64)
    values = np.full((len(scores), k), -np.inf, dtype=np.float32)
    items[:, : order.shape[1]] = np.take_along_axis(candidates.items, order, axis=1)
    values[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    return TopItems(items, values)


class TrialResult(NamedTuple):
    """One scoring and its validation NDCG@10."""

    scoring: Scoring
    ndcg: float


def tune_scoring(batches: Iterable[tuple[Candidates, IntArray]], *, agreement: bool) -> list[TrialResult]:
    """Every bandwidth and prior weight on validation users, best first; of equals the one with the smaller priors.

    Args:
        batches: candidates of some users, and their targets.
        agreement: whether to tune the weight of the agreement prior.

    Raises:
        DataError: there are no users.
    """
    weights = AGREEMENT if agreement else (0.0,)
    grid: list[Scoring] = []
    gains: npt.NDArray[np.float64] = np.zeros(0)
    users, unit = 0, 1.0
    for candidates, targets in batches:
        if not grid:
            unit = _nearest_distance(candidates)
            grid = [Scoring(unit * b, p, a) for b, p, a in product(BANDWIDTHS, POPULARITY, weights)]
            gains = np.zeros(len(grid))
        gains += _gains(candidates, targets, [unit * b for b in BANDWIDTHS], weights)
        users += len(targets)
    if not users:
        raise DataError("scoring: no validation users to tune on; the data need users with 3 interactions or more")
    trials = [TrialResult(setting, float(gain / users)) for setting, gain in zip(grid, gains, strict=True)]
    return sorted(trials, key=lambda t: (-t.ndcg, t.scoring.popularity + t.scoring.agreement))


def _nearest_distance(candidates: Candidates) -> float:
    masked = np.where(candidates.items[:, None, :] >= 0, candidates.distances, np.inf).min(axis=2, initial=np.inf)
    near = masked[np.isfinite(masked)]
    return float(np.sqrt(near.mean())) if len(near) and near.mean() > 0 else 1.0


def _gains(
    candidates: Candidates, targets: IntArray, bandwidths: Sequence[float], weights: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Summed DCG at `CUTOFF` of every setting, in the order of `product(bandwidths, POPULARITY, weights)`."""
    is_target = candidates.items == targets[:, None]
    hit, column = is_target.any(axis=1), is_target.argmax(axis=1)
    rows = np.arange(len(targets))
    padding = candidates.items < 0
    gains = []
    for bandwidth in bandwidths:
        kernel = np.where(padding, -np.inf, kernel_scores(candidates.distances, bandwidth))
        for popularity, weight in product(POPULARITY, weights):
            scores = kernel + popularity * candidates.popularity + weight * candidates.agreement
            own = scores[rows, column][:, None]
            before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < column[:, None]))
            rank = before.sum(axis=1)
            gains.append(float(np.where(hit & (rank < CUTOFF), 1 / np.log2(rank + 2.0), 0).sum()))
    return np.array(gains)
