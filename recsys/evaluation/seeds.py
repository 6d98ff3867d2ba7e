"""Evaluation of one flow under several seeds: means over seeds and users, and how far seeds differ."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.histories import queries
from recsys.errors import DataError
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.estimates import Comparison, Estimate, Estimates, EvaluationBase, estimate
from recsys.evaluation.metrics import metric_names, ranked_sources, source_scores
from recsys.evaluation.policies import by_policy
from recsys.metrics import FloatArray
from recsys.tables import POLICIES, TEST, Policy, Rankings


@dataclass(frozen=True, order=True)
class SeedEstimate(Estimate):
    """A mean over users and seeds, and the ends of its interval over both.

    `by_seed` has the mean over the users of each seed, `deviation` is their sample standard deviation.
    """

    deviation: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class SeedSystem:
    """One source of rankings; `metrics` is keyed by `metric@cutoff`."""

    metrics: dict[str, SeedEstimate]


@dataclass(frozen=True)
class SeedPolicyEvaluation:
    """All systems on all users and seeds under one policy; the `difference` of a comparison is a `SeedEstimate`."""

    systems: dict[str, SeedSystem]
    comparisons: list[Comparison]


@dataclass(frozen=True)
class SeedEvaluation(EvaluationBase):
    """All systems on all users and seeds under each policy; an estimate also has its `deviation` and `by_seed`."""

    format = 1

    seeds: tuple[int, ...]
    policies: dict[Policy, SeedPolicyEvaluation]


def evaluate_seeds(
    rankings: Iterable[tuple[int, Rankings]], dataset: Dataset, config: EvaluateConfig | None = None, *, seed: int = 0
) -> SeedEvaluation:
    """Measure rankings that differ by the seed of everything trained, on the test users of one dataset.

    Intervals are over users and seeds (`bootstrap_means_of_seeds`). A comparison averages each user's difference over
    the seeds and flips the signs of these: its p-value is about other users under these seeds, so that a difference is
    believed only where it is also large beside its deviation over the seeds.

    Args:
        rankings: (seed, rankings) of two or more seeds, which are read one after the other.
        seed: of the bootstrap resamples and the sign flips.

    Raises:
        DataError: no users, fewer than two seeds, or seeds whose rankings have different sources.
    """
    config, catalog = config or EvaluateConfig(), dataset.catalog
    cutoffs = tuple(sorted({*config.cutoffs, config.slice_cutoff}))
    users = queries(dataset.interactions, catalog, split=TEST, max_history=len(dataset.interactions))
    if not len(users):
        raise DataError("no user has a target to evaluate on; the data need users with at least 2 interactions")
    seeds: list[int] = []
    scores: dict[Policy, dict[int, FloatArray]] = {}
    sources: dict[Policy, list[str]] = {}
    for number, of_seed in rankings:
        seeds.append(number)
        for policy, rows in by_policy(of_seed, users, catalog).items():
            ranked = ranked_sources(rows, user_ids=users.user_ids, catalog=catalog, depth=cutoffs[-1])
            _require_equal(sources.setdefault(policy, list(ranked)), list(ranked), seeds)
            scores.setdefault(policy, {})[number] = source_scores(ranked, users.targets, cutoffs=cutoffs)
    if len(seeds) < 2:
        raise DataError(f"got rankings of {len(seeds)} seeds; two or more are needed to compare them")
    generators = dict(zip(POLICIES, np.random.default_rng(seed).spawn(len(POLICIES)), strict=True))
    return SeedEvaluation(
        seeds=tuple(seeds),
        users=len(users),
        items=len(catalog),
        cutoffs=cutoffs,
        slice_cutoff=config.slice_cutoff,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        policies={
            policy: _measured(
                np.stack(list(found.values())), sources[policy], metric_names(cutoffs), config, generators[policy]
            )
            for policy, found in scores.items()
        },
    )


def _require_equal(first: list[str], own: list[str], seeds: list[int]) -> None:
    if first != own:
        raise DataError(
            f"seed {seeds[0]} has rankings of {', '.join(first)}, seed {seeds[-1]} of {', '.join(own)}; "
            "run all seeds with the same configuration"
        )


def _measured(
    scores: FloatArray,
    systems: Sequence[str],
    metrics: Sequence[str],
    config: EvaluateConfig,
    generator: np.random.Generator,
) -> SeedPolicyEvaluation:
    """All systems under one policy, of scores `[R, U, S, M]`."""
    found = estimate(scores, systems=systems, metrics=metrics, config=config, generator=generator)
    return _with_seeds(found, scores.mean(axis=1), systems, metrics)


def _with_seeds(
    found: Estimates, means: FloatArray, systems: Sequence[str], metrics: Sequence[str]
) -> SeedPolicyEvaluation:
    """The estimates with the means of each seed, `[R, S, M]`."""

    def of(system: str, metric: str) -> FloatArray:
        return means[:, systems.index(system), metrics.index(metric)]

    measured = {
        system: SeedSystem({metric: _spread(mean, of(system, metric)) for metric, mean in by_metric.items()})
        for system, by_metric in found.means.items()
    }
    comparisons = [
        replace(c, difference=_spread(c.difference, of(c.better, c.metric) - of(c.worse, c.metric)))
        for c in found.comparisons
    ]
    return SeedPolicyEvaluation(measured, comparisons)


def _spread(mean: Estimate, by_seed: FloatArray) -> SeedEstimate:
    values = tuple(by_seed.tolist())
    return SeedEstimate(mean.value, mean.low, mean.high, statistics.stdev(values), values)
