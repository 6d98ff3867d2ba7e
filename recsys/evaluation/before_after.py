"""One system before and after a change, on the same users: means, intervals of the difference, paired tests.

Works on per-user scores in memory; p-values are corrected together, for everything that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.estimates import Estimate
from recsys.evaluation.significance import (
    bootstrap_means,
    holm,
    least_p_value,
    percentile_interval,
    sign_flip_p_value,
)
from recsys.metrics import FloatArray


class Measured(NamedTuple):
    """One metric [U] of the same users before and after, and what it is of."""

    group: str
    policy: str
    source: str
    metric: str
    before: FloatArray
    after: FloatArray


class Change(NamedTuple):
    """Means over `users`, and `after - before`; see `recsys.evaluation.estimates.Comparison` for the p-values."""

    group: str
    policy: str
    source: str
    metric: str
    users: int
    before: float
    after: float
    difference: Estimate
    p: float
    p_at_floor: bool
    p_holm: float
    p_holm_at_floor: bool


def changes(measured: Sequence[Measured], config: EvaluateConfig, *, seed: int) -> list[Change]:
    """What changed, in the given order; Holm's correction is over all of it."""
    generator = np.random.default_rng(seed)
    floor = least_p_value(config.num_resamples)
    differences = [_difference(entry, config, generator) for entry in measured]
    p_values = [
        sign_flip_p_value(entry.after - entry.before, resamples=config.num_resamples, generator=generator)
        for entry in measured
    ]
    return [
        Change(
            *entry[:4],
            len(entry.before),
            float(entry.before.mean()),
            float(entry.after.mean()),
            difference,
            p,
            p <= floor,
            *corrected,
        )
        for entry, difference, p, corrected in zip(
            measured, differences, p_values, holm(p_values, floor=floor), strict=True
        )
    ]


def _difference(entry: Measured, config: EvaluateConfig, generator: np.random.Generator) -> Estimate:
    differences = (entry.after - entry.before)[:, None]
    samples = bootstrap_means(differences, resamples=config.num_resamples, generator=generator)
    low, high = percentile_interval(samples, config.confidence)
    return Estimate(float(differences.mean()), float(low[0]), float(high[0]))
