"""Rows `X-with-terms`: the list of any ranker X, re-ordered by X's score and two terms that are not X's own.

The terms are how popular an item is, and how well its category agrees with what the language model generates. Every
ranker is offered the same ones, in a row beside its own, so that no row contains what another is compared without.
Weights come from validation users; with both at 0 the ranking is X's. Items that X does not list cannot be found.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from recsys.data.categories import CategoryCodes
from recsys.metrics import summed_gains
from recsys.ranking.base import Ranker
from recsys.ranking.fusion import Floats, behind_best, common_scale
from recsys.ranking.grid import choose, steps
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import GENERATIVE, with_terms
from recsys.tables import FloatArray, IntArray, TopItems

CUTOFF = 10  # weights are chosen by validation NDCG at this length
WEIGHTS = steps(0.1, -1, 5, lowest=-10, highest=50)
SPREAD = 0.1  # probability that is spread over all categories alike, so that none is excluded

logger = logging.getLogger(__name__)


class TermWeights(NamedTuple):
    """Score = (X's score behind the user's best) / scale + popularity * ... + agreement * ...; None leaves it out."""

    scale: float = 1.0
    popularity: float = 0.0
    agreement: float | None = None


class TermsRanker:
    """Re-orders the list that the ranker `base` has made of the same batch.

    Args:
        counts: [N] training interactions, or their weights.
        categories: of the items; None leaves the agreement out.
        weights: chosen by `tune`.
    """

    def __init__(
        self,
        base: str,
        counts: FloatArray | IntArray,
        categories: CategoryCodes | None,
        *,
        weights: TermWeights | None = None,
    ) -> None:
        self._base, self._categories, self._popularity = base, categories, log_popularity(counts)
        self._weights, self.at_edge = weights or TermWeights(), tuple[str, ...]()

    @property
    def params(self) -> dict[str, Any]:
        return self._weights._asdict()

    def with_params(self, params: Mapping[str, Any]) -> Self:
        changed = copy.copy(self)
        changed._weights = TermWeights(**params)
        return changed

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """The first `k` of the base's list, re-ordered as a whole; of equal scores in the base's order."""
        listed = batch.rankings[self._base]
        scores = _combined(self._inputs(batch), self._weights)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = TopItems(
            np.take_along_axis(listed.items, order, axis=1),
            np.take_along_axis(scores, order, axis=1).astype(np.float32),
        )
        return found.padded(k)

    def tune(self, batch: RankingBatch, targets: IntArray) -> Self:
        listed, inputs = batch.rankings[self._base], self._inputs(batch)
        if inputs.agreement is None:
            reason = "the catalogue has no categories" if self._categories is None else "there is no generated list"
            logger.info("%s has no term of agreement: %s", with_terms(self._base), reason)
        scale = common_scale(listed)
        hit, column = np.nonzero(listed.items == targets[:, None])  # the others gain nothing, whatever the weights
        found = inputs.take(hit)

        def ndcg(weights: Mapping[str, float]) -> float:
            scores = _combined(found, TermWeights(scale, **weights))
            return summed_gains(scores, column, k=CUTOFF) / max(1, len(targets))

        names = ("popularity",) if inputs.agreement is None else ("popularity", "agreement")
        best = choose(dict.fromkeys(names, WEIGHTS), ndcg)
        tuned = self.with_params({"scale": scale, **best.values})
        tuned.at_edge = best.at_edge
        return tuned

    def _inputs(self, batch: RankingBatch) -> _Inputs:
        listed, generated = batch.rankings[self._base], batch.rankings.get(GENERATIVE)
        agreement = None
        if generated is not None and self._categories is not None:
            logs = category_log_probabilities(generated, self._categories)
            agreement = np.take_along_axis(logs, self._categories.codes[listed.items], axis=1)
        return _Inputs(behind_best(listed), self._popularity[listed.items], agreement)


class _Inputs(NamedTuple):
    """Of each item of the base's lists; the base's score behind the user's best is -inf in padding."""

    base: Floats  # [U, C]
    popularity: FloatArray  # [U, C]
    agreement: Floats | None  # [U, C]

    def take(self, rows: IntArray) -> _Inputs:
        agreement = None if self.agreement is None else self.agreement[rows]
        return _Inputs(self.base[rows], self.popularity[rows], agreement)


def _combined(inputs: _Inputs, weights: TermWeights) -> Floats:
    """Scores [U, C]; without a generated list, as under load, the other parts alone."""
    scores: Floats = inputs.base / weights.scale + weights.popularity * inputs.popularity
    if inputs.agreement is not None and weights.agreement is not None:
        scores = scores + weights.agreement * inputs.agreement
    return scores


def log_popularity(counts: FloatArray | IntArray) -> FloatArray:
    """log(1 + interactions, or their weights) of each item [N], standardized over the catalogue."""
    logs = np.log1p(counts.astype(np.float64))
    spread = logs.std()
    scaled: FloatArray = ((logs - logs.mean()) / (spread if spread > 0 else 1.0)).astype(np.float32)
    return scaled


def category_log_probabilities(generated: TopItems, categories: CategoryCodes) -> Floats:
    """Log-probability [U, C + 1] of each category under the items that the language model generates.

    The probability of each generated item counts for its category. The last column, that of items without a category,
    is the mean of the others; users without a generated item get the same in all.

    Args:
        generated: items [U, k] with log-probabilities.
    """
    codes, number = categories
    users = len(generated.items)
    listed = (generated.items >= 0) & (codes[generated.items] >= 0)
    scores = np.where(listed, generated.scores, -np.inf).astype(np.float64)
    peak = np.where(listed.any(axis=1), scores.max(axis=1, initial=-np.inf), 0)
    probabilities = np.exp(scores - peak[:, None])
    mass = np.zeros((users, number))
    rows, columns = np.nonzero(listed)
    np.add.at(mass, (rows, codes[generated.items[rows, columns]]), probabilities[rows, columns])
    total = mass.sum(axis=1, keepdims=True)
    share = np.where(total > 0, mass / np.where(total > 0, total, 1), 1 / number)
    logs = np.log((1 - SPREAD) * share + SPREAD / number)
    return np.concatenate([logs, logs.mean(axis=1, keepdims=True)], axis=1)


def build(context: RankingContext, *, base: str) -> Ranker | None:
    """None where the configuration does not ask for this row."""
    config, items = context.config, context.items
    if base not in config.terms and with_terms(base) not in config.fusion.sources:
        return None
    return TermsRanker(base, items.popularity, items.categories)
