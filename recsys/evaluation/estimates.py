"""Means of per-user scores with their intervals, and the paired comparisons of systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, ClassVar, NamedTuple

import numpy as np

from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.significance import (
    bootstrap_means,
    bootstrap_means_of_seeds,
    holm,
    least_p_value,
    percentile_interval,
    sign_flip_p_value,
)
from recsys.metrics import FloatArray

TESTED = ("hr", "ndcg")


@dataclass(frozen=True, order=True)
class Estimate:
    """A mean over all users and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The paired difference `better - worse` of one metric; `p_holm` is corrected for all comparisons made.

    A p-value at the floor, 1 / (1 + resamples), and what the correction makes of it, bound the true one from above.
    """

    metric: str
    better: str
    worse: str
    difference: Estimate
    p: float
    p_at_floor: bool
    p_holm: float
    p_holm_at_floor: bool


@dataclass(frozen=True)
class EvaluationBase:
    """What was evaluated and how. `num_resamples` is that of every interval and p-value."""

    format: ClassVar[int]  # of the JSON

    users: int
    items: int
    cutoffs: tuple[int, ...]
    slice_cutoff: int
    confidence: float
    num_resamples: int

    def to_json(self) -> dict[str, Any]:
        """Plain values: `["policies"]["seen-kept"]["systems"][name]["metrics"]["ndcg@10"]["value"]` and so on."""
        return {"format": self.format, **asdict(self)}


class Estimates(NamedTuple):
    """System -> metric -> mean, and the comparisons of every two systems."""

    means: dict[str, dict[str, Estimate]]
    comparisons: list[Comparison]


def estimate(
    scores: FloatArray,
    *,
    systems: Sequence[str],
    metrics: Sequence[str],
    config: EvaluateConfig,
    generator: np.random.Generator,
) -> Estimates:
    """Intervals and comparisons of scores `[R, U, S, M]` of R seeds; each system and each pair is resampled by itself.

    Intervals are over users, and over seeds where there are several. A user's difference is averaged over the seeds
    before its sign is flipped.
    """
    users = scores.mean(axis=0) if len(scores) > 1 else scores[0]  # of a million users, no copy
    means = users.mean(axis=0)
    found = {}
    for s, name in enumerate(systems):
        low, high = _interval(scores[:, :, s], config, generator)
        found[name] = {metric: _estimate(means[s, m], low[m], high[m]) for m, metric in enumerate(metrics)}
    rows = []
    for column in (metrics.index(f"{metric}@{config.slice_cutoff}") for metric in TESTED):
        for pair in combinations(range(len(systems)), 2):
            better, worse = sorted(pair, key=lambda s: -means[s, column])
            low, high = _interval(
                (scores[..., better, column] - scores[..., worse, column])[..., None], config, generator
            )
            differences = users[:, better, column] - users[:, worse, column]
            p = sign_flip_p_value(differences, resamples=config.num_resamples, generator=generator)
            difference = _estimate(means[better, column] - means[worse, column], low[0], high[0])
            rows.append((metrics[column], systems[better], systems[worse], difference, p))
    floor = least_p_value(config.num_resamples)
    corrected = holm([row[-1] for row in rows], floor=floor)
    comparisons = [Comparison(*row, row[-1] <= floor, *after) for row, after in zip(rows, corrected, strict=True)]
    return Estimates(found, comparisons)


def _interval(
    values: FloatArray, config: EvaluateConfig, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Both ends of the bootstrap intervals of the means of `values [R, U, M]`."""
    if len(values) == 1:
        samples = bootstrap_means(values[0], resamples=config.num_resamples, generator=generator)
    else:
        samples = bootstrap_means_of_seeds(values, resamples=config.num_resamples, generator=generator)
    return percentile_interval(samples, config.confidence)


def shown_p(p: float, *, at_floor: bool) -> str:
    """A p-value as text; one that the floor bounds is shown as a bound."""
    digits = f"{p:.3f}" if p >= 0.001 and not at_floor else f"{p:.2g}"
    return f"p {'≤' if at_floor else '='} {digits}"


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(float(value), float(low), float(high))
