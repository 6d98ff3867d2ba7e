"""Several rankings of the same users -> one: by reciprocal rank, or by a weighted sum of calibrated scores.

`weighted-sum` standardizes scores per user. `log-linear` takes them as logarithms of probabilities, which they are but
for a constant a user, and divides each source's by one scale for all users, so that a source which is sure of a user
counts for more (Genest & Zidek, "Combining Probability Distributions", Statistical Science 1986, logarithmic opinion
pools).

Reads `TopItems` in memory; a `Fusion` (method and weights) is plain JSON. Weights come from validation users only. A
source of weight 0 takes no part at all, so that a weight of 1 for one source gives back its ranking exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement, pairwise, product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.ranking.config import FusionConfig, Method
from recsys.tables import FloatArray, IntArray, TopItems

Floats = npt.NDArray[np.float64]
METHODS: tuple[Method, ...] = ("reciprocal-rank", "weighted-sum", "log-linear")
FUSED = "fused"  # the ranking that is made of the others
CUTOFF = 10  # weights are chosen by validation NDCG at this length


class Fusion(NamedTuple):
    """A method with a weight for each source; `constant` is that of reciprocal rank, `scales` those of log-linear."""

    method: Method
    weights: Mapping[str, float]
    constant: float = 60.0
    scales: Mapping[str, float] = {}  # never changed

    def fuse(self, rankings: Mapping[str, TopItems], k: int) -> TopItems:
        """The `k` best items of each user, best first, equal scores by item index.

        Args:
            rankings: by source; rows are the same users in each.

        Raises:
            DataError: a source with a weight is missing, or the rankings are not of as many users.
        """
        used = {source: weight for source, weight in self.weights.items() if weight > 0}
        missing = [source for source in used if source not in rankings]
        if missing:
            raise DataError(f"fusion: no ranking of {', '.join(missing)}; there are {', '.join(rankings) or 'none'}")
        pool = _pool({source: rankings[source] for source in used}, [self])
        return _best(pool, _combine(pool, self.method, [used[source] for source in pool.sources]), k)

    def among(self, rankings: Collection[str]) -> Fusion:
        """The same over those of its sources that there are; all alike where none of them has a weight."""
        kept = {source: self.weights.get(source, 0.0) for source in rankings}
        if not any(kept.values()):
            kept = dict.fromkeys(rankings, 1.0)
        return self._replace(weights=kept)

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"weights": dict(self.weights), "scales": dict(self.scales)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fusion:
        """What `to_json` gave.

        Raises:
            DataError: the method is unknown, or a weight or a scale is missing.
        """
        if values.get("method") not in METHODS or not values.get("weights"):
            raise DataError(f"fusion: got {dict(values)!r}; a method of {', '.join(METHODS)} and weights are needed")
        scales = dict(values.get("scales", {}))
        if values["method"] == "log-linear" and not values["weights"].keys() <= scales.keys():
            raise DataError(f"fusion: got scales of {', '.join(scales) or 'nothing'}; every source needs one")
        return cls(values["method"], dict(values["weights"]), float(values["constant"]), scales)


class FusionTrial(NamedTuple):
    """One setting, and the NDCG@10 of each validation user for whom some source finds the target; 0 for the others."""

    fusion: Fusion
    gains: Floats  # [F]
    num_users: int

    @property
    def ndcg(self) -> float:
        return float(self.gains.sum() / self.num_users)

    def is_as_good_as(self, best: FusionTrial) -> bool:
        """Whether it is at most one standard error of their difference, over users, behind."""
        behind = best.gains - self.gains
        mean = behind.sum() / self.num_users
        variance = np.square(behind).sum() / self.num_users - mean**2
        return bool(mean <= np.sqrt(variance / self.num_users) + 1e-12)


class _Pool(NamedTuple):
    """Every (user, item) that some source lists, ordered by user and item, and the score that each source gives it."""

    sources: list[str]
    num_users: int
    users: IntArray  # [M]
    items: IntArray  # [M]
    listed: npt.NDArray[np.bool_]  # [S, M]
    source_scores: dict[Method, Floats]  # [S, M]; an item that a source does not list gets its lowest score


def tune_fusion(rankings: Mapping[str, TopItems], targets: IntArray, config: FusionConfig) -> list[FusionTrial]:
    """Every method and weighting on validation users, best first, preceded by the one to be used.

    That is the mean of all weightings of the best method that are as good as the best one, since differences within
    their standard error are chance. Where the mean itself is not as good, it is the best one.

    Args:
        rankings: by source, of the same users.
        targets: [U] item index of each user's next item.

    Raises:
        DataError: there are no users, or the rankings are not of as many.
    """
    if not len(targets):
        raise DataError("fusion: weights are chosen on validation users, and there are none")
    _check_users([*(len(ranking.items) for ranking in rankings.values()), len(targets)])
    methods = list(METHODS) if config.method == "auto" else [config.method]
    cut = {source: TopItems(r.items[:, : config.depth], r.scores[:, : config.depth]) for source, r in rankings.items()}
    # No source finds the others' targets, whatever the weights.
    findable = np.any([(r.items == targets[:, None]).any(axis=1) for r in cut.values()], axis=0)
    cut = {source: TopItems(r.items[findable], r.scores[findable]) for source, r in cut.items()}
    scales = {source: common_scale(ranking) for source, ranking in cut.items()}
    kinds = [Fusion(method, {}, config.rank_constant, scales if method == "log-linear" else {}) for method in methods]
    pool = _pool(cut, kinds)

    def attempt(fusion: Fusion) -> FusionTrial:
        scores = _combine(pool, fusion.method, list(fusion.weights.values()))
        return FusionTrial(fusion, _gains(pool, scores, targets[findable]), len(targets))

    weightings = [dict(zip(cut, weights, strict=True)) for weights in _simplex(len(cut), config.grid)]
    trials = [attempt(kind._replace(weights=weights)) for kind, weights in product(kinds, weightings)]
    trials.sort(key=lambda t: -t.ndcg)
    best = trials[0]
    mean = attempt(_mean([t.fusion for t in trials if t.fusion.method == best.fusion.method and t.is_as_good_as(best)]))
    return [mean if mean.is_as_good_as(best) else best, *trials]


def _mean(fusions: Sequence[Fusion]) -> Fusion:
    """The first one with the mean of all their weights."""
    first = fusions[0]
    return first._replace(
        weights={source: round(float(np.mean([f.weights[source] for f in fusions])), 4) for source in first.weights}
    )


def z_scores(scores: FloatArray) -> Floats:
    """Each row of scores [U, k] with mean 0 and deviation 1 over its finite scores; a constant row becomes zeros."""
    listed = np.isfinite(scores)
    values = np.where(listed, scores, 0).astype(np.float64)
    counts = np.maximum(listed.sum(axis=1, keepdims=True), 1)
    mean = values.sum(axis=1, keepdims=True) / counts
    centred = np.where(listed, values - mean, 0)
    deviation = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / counts)
    calibrated = centred / np.where(deviation > 1e-6 * np.maximum(1, np.abs(mean)), deviation, np.inf)
    return np.where(listed, calibrated, -np.inf)


def _pool(rankings: Mapping[str, TopItems], kinds: Sequence[Fusion]) -> _Pool:
    """The score of every source for every pair by each method; the weights of `kinds` are not used."""
    num_users = _check_users([len(ranking.items) for ranking in rankings.values()])
    listed_at = [np.nonzero(ranking.items >= 0) for ranking in rankings.values()]
    keys = [
        _keys(rows, r.items[rows, columns]) for (rows, columns), r in zip(listed_at, rankings.values(), strict=True)
    ]
    union = np.unique(np.concatenate(keys))
    users, items = union >> 32, union & 0xFFFFFFFF
    listed = np.zeros((len(rankings), len(union)), dtype=bool)
    source_scores = {kind.method: np.zeros((len(rankings), len(union))) for kind in kinds}
    for number, ((source, ranking), (rows, columns)) in enumerate(zip(rankings.items(), listed_at, strict=True)):
        found = np.searchsorted(union, keys[number])
        listed[number, found] = True
        for kind in kinds:
            values, lowest = _calibrated(kind, source, ranking)
            source_scores[kind.method][number] = lowest[users]
            source_scores[kind.method][number, found] = values[rows, columns]
    return _Pool(list(rankings), num_users, users, items, listed, source_scores)


def _check_users(sizes: Sequence[int]) -> int:
    """How many users all are of."""
    if len(set(sizes)) != 1:
        raise DataError(f"fusion: rankings of {sorted(set(sizes))} users; give each source's ranking of the same users")
    return sizes[0]


def _calibrated(kind: Fusion, source: str, ranking: TopItems) -> tuple[Floats, Floats]:
    """The scores of a source's ranks [U, k], and that of an item which it does not list [U]."""
    if kind.method == "reciprocal-rank":
        by_rank = 1 / (kind.constant + 1 + np.arange(ranking.items.shape[1]))
        return np.broadcast_to(by_rank, ranking.items.shape), np.zeros(len(ranking.items))
    if kind.method == "weighted-sum":
        values = z_scores(np.where(ranking.items >= 0, ranking.scores, -np.inf))
    else:
        values = behind_best(ranking) / kind.scales.get(source, 1.0)
    return values, np.where(np.isfinite(values), values, np.inf).min(axis=1, initial=0)


def behind_best(ranking: TopItems) -> Floats:
    """How far each score lies behind the user's best, 0 or below; -inf in padding."""
    scores = np.where(ranking.items >= 0, ranking.scores, -np.inf).astype(np.float64)
    best = scores.max(axis=1, keepdims=True, initial=-np.inf)
    return scores - np.where(np.isfinite(best), best, 0)


def common_scale(ranking: TopItems) -> float:
    """The deviation of these users' scores behind each one's best; 1 where they do not differ."""
    behind = behind_best(ranking)
    listed = behind[np.isfinite(behind)]
    deviation = float(listed.std()) if len(listed) else 0.0
    return deviation if deviation > 0 else 1.0


def _combine(pool: _Pool, method: Method, weights: Sequence[float]) -> Floats:
    """The fused score [M] of every pair; -inf where only sources of weight 0 list it."""
    share = np.asarray(weights, dtype=np.float64)
    scores = np.zeros(len(pool.items))
    # Source by source: a matrix product rounds by the number of pairs, and tuning would break ties unlike serving.
    for weight, source in zip(share, pool.source_scores[method], strict=True):
        scores += weight * source
    return np.where(pool.listed[share > 0].any(axis=0), scores, -np.inf)


def _best(pool: _Pool, scores: Floats, k: int) -> TopItems:
    order = np.lexsort((pool.items, -scores, pool.users))
    starts = np.searchsorted(pool.users, np.arange(pool.num_users))
    rank = np.arange(len(order)) - starts[pool.users]
    kept = (rank < k) & np.isfinite(scores[order])
    items = np.full((pool.num_users, k), -1, dtype=np.int64)
    values = np.full((pool.num_users, k), -np.inf, dtype=np.float32)
    items[pool.users[kept], rank[kept]] = pool.items[order[kept]]
    values[pool.users[kept], rank[kept]] = scores[order[kept]]
    return TopItems(items, values)


def _gains(pool: _Pool, scores: Floats, targets: IntArray) -> Floats:
    """NDCG at `CUTOFF` of each user's one target, without sorting: how many pairs of its user come before it."""
    union, wanted = _keys(pool.users, pool.items), _keys(np.arange(pool.num_users), targets)
    if not len(union):
        return np.zeros(pool.num_users)
    found = np.minimum(np.searchsorted(union, wanted), len(union) - 1)
    hit = (union[found] == wanted) & np.isfinite(scores[found])
    own = np.where(hit, scores[found], np.inf)[pool.users]
    before = (scores > own) | ((scores == own) & (pool.items < targets[pool.users]))
    rank = np.bincount(pool.users[before], minlength=pool.num_users)
    return np.where(hit & (rank < CUTOFF), 1 / np.log2(rank + 2.0), 0.0)


def _simplex(size: int, grid: int) -> Iterator[tuple[float, ...]]:
    """All weightings of `size` sources in steps of 1 / grid that sum to 1."""
    for cuts in combinations_with_replacement(range(grid + 1), size - 1):
        edges = (0, *cuts, grid)
        yield tuple((after - before) / grid for before, after in pairwise(edges))


def _keys(users: IntArray, items: IntArray) -> IntArray:
    """One number a (user, item), ordered by user and then item."""
    keys: IntArray = (users.astype(np.int64) << 32) + items
    return keys
