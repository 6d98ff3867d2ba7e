"""Evaluation of rankings: every figure in the report and in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.histories import interaction_counts, queries, training_histories
from recsys.errors import DataError
from recsys.evaluation.beyond import Beyond, beyond_accuracy
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.metrics import METRICS, RankedItems, metric_names, per_user_metrics, ranked_items
from recsys.evaluation.significance import bootstrap_means, holm, percentile_interval, sign_flip_p_value
from recsys.evaluation.slices import (
    Categories,
    Slices,
    by_category,
    by_history_length,
    by_target_popularity,
    categories,
)
from recsys.metrics import FloatArray, IntArray
from recsys.tables import TEST, Catalog, Queries, Rankings

TESTED = ("hr", "ndcg")
FORMAT = 1


@dataclass(frozen=True, order=True)
class Estimate:
    """A mean over all users and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class System:
    """One source of rankings. `metrics` is keyed by `metric@cutoff`; `beyond` is computed at the slice cutoff."""

    metrics: dict[str, Estimate]
    beyond: Beyond
    users_without_rows: int
    out_of_catalogue_items: int
    repeated_items: int


@dataclass(frozen=True)
class Comparison:
    """The paired difference `better - worse` of one metric; `p_holm` is corrected for all comparisons made."""

    metric: str
    better: str
    worse: str
    difference: Estimate
    p: float
    p_holm: float


@dataclass(frozen=True)
class Slice:
    """One group of users. `values` is system -> metric -> mean; None where the group is empty."""

    name: str
    label: str
    users: int
    values: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Evaluation:
    """All systems on all users. `notices` are sentences about missing or irregular data."""

    users: int
    items: int
    cutoffs: tuple[int, ...]
    slice_cutoff: int
    confidence: float
    systems: dict[str, System]
    comparisons: list[Comparison]
    slices: list[Slice]
    notices: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values: `["systems"][name]["metrics"]["ndcg@10"]["value"]` and so on."""
        return {"format": FORMAT, **asdict(self)}


def evaluate(
    rankings: Rankings, dataset: Dataset, config: EvaluateConfig | None = None, *, seed: int = 0
) -> Evaluation:
    """Measure every source of `rankings` on the test users of a dataset.

    Args:
        seed: of the bootstrap resamples and the sign flips.

    Raises:
        DataError: no users, no rankings, or two rows for one rank of a user.
    """
    interactions, catalog = dataset.interactions, dataset.catalog
    return evaluate_queries(
        rankings,
        # Whole histories, whatever part of them the rankers saw: slices and lift are about the users.
        queries=queries(interactions, catalog, split=TEST, max_history=len(interactions)),
        catalog=catalog,
        popularity=interaction_counts(training_histories(interactions, catalog).items, len(catalog)),
        config=config or EvaluateConfig(),
        generator=np.random.default_rng(seed),
    )


def evaluate_queries(
    rankings: Rankings,
    *,
    queries: Queries,
    catalog: Catalog,
    popularity: IntArray,
    config: EvaluateConfig,
    generator: np.random.Generator,
) -> Evaluation:
    """Measure every source of `rankings` on every user of `queries`.

    A user whose target a source did not return, or for whom it returned nothing, is a miss.

    Args:
        popularity: `[N]` training interactions of each item of the catalogue.
        generator: draws the bootstrap resamples and the sign flips.

    Raises:
        DataError: no users, no rankings, or two rows for one rank of a user.
    """
    _check(rankings, queries, catalog, popularity)
    cutoffs = tuple(sorted({*config.cutoffs, config.slice_cutoff}))
    ranked = {
        source: ranked_items(rankings, source=source, user_ids=queries.user_ids, catalog=catalog, depth=cutoffs[-1])
        for source in rankings.sources
    }
    scores = np.stack([per_user_metrics(r.items, queries.targets, cutoffs=cutoffs) for r in ranked.values()], axis=1)
    found = categories(catalog)
    divisions = [by_history_length(queries), by_target_popularity(queries, popularity)]
    divisions += [by_category(queries, found)] if found else []
    accuracy, comparisons = _estimates(scores, list(ranked), metric_names(cutoffs), config, generator)
    return Evaluation(
        users=len(queries),
        items=len(catalog),
        cutoffs=cutoffs,
        slice_cutoff=config.slice_cutoff,
        confidence=config.confidence,
        systems={
            name: _system(r, accuracy[name], queries, popularity, found, config.slice_cutoff)
            for name, r in ranked.items()
        },
        comparisons=comparisons,
        slices=_slices(divisions, scores, list(ranked), cutoffs, config.slice_cutoff),
        notices=_notices(ranked, queries, popularity, found),
    )


def _check(rankings: Rankings, queries: Queries, catalog: Catalog, popularity: IntArray) -> None:
    if not len(queries):
        raise DataError("no user has a target to evaluate on; the data need users with at least 2 interactions")
    if not len(rankings):
        raise DataError("the rankings are empty; run the stage 'recommend' with at least one system")
    if len(popularity) != len(catalog):
        raise DataError(f"popularity has {len(popularity)} entries for {len(catalog)} items; give one an item")


def _estimates(
    scores: FloatArray,
    names: Sequence[str],
    metrics: Sequence[str],
    config: EvaluateConfig,
    generator: np.random.Generator,
) -> tuple[dict[str, dict[str, Estimate]], list[Comparison]]:
    """Intervals and comparisons of scores `[U, S, M]`; each system and each pair is resampled by itself."""
    means = scores.mean(axis=0)
    accuracy = {}
    for s, name in enumerate(names):
        low, high = _interval(scores[:, s], config, generator)
        accuracy[name] = {metric: _estimate(means[s, m], low[m], high[m]) for m, metric in enumerate(metrics)}
    rows = []
    for column in (metrics.index(f"{metric}@{config.slice_cutoff}") for metric in TESTED):
        for pair in combinations(range(len(names)), 2):
            better, worse = sorted(pair, key=lambda s: -means[s, column])
            differences = scores[:, better, column] - scores[:, worse, column]
            low, high = _interval(differences[:, None], config, generator)
            p = sign_flip_p_value(differences, resamples=config.num_resamples, generator=generator)
            difference = _estimate(means[better, column] - means[worse, column], low[0], high[0])
            rows.append((metrics[column], names[better], names[worse], difference, p))
    corrected = holm([row[-1] for row in rows])
    return accuracy, [Comparison(*row, p_holm) for row, p_holm in zip(rows, corrected, strict=True)]


def _interval(
    values: FloatArray, config: EvaluateConfig, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Both ends of the bootstrap intervals of the means of `values [U, M]`."""
    samples = bootstrap_means(values, resamples=config.num_resamples, generator=generator)
    return percentile_interval(samples, config.confidence)


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(float(value), float(low), float(high))


def _system(
    ranked: RankedItems,
    accuracy: dict[str, Estimate],
    queries: Queries,
    popularity: IntArray,
    found: Categories | None,
    cutoff: int,
) -> System:
    beyond = beyond_accuracy(
        ranked.items[:, :cutoff], histories=queries.histories, popularity=popularity, categories=found
    )
    return System(accuracy, beyond, ranked.users_without_rows, ranked.out_of_catalogue_items, ranked.repeated_items)


def _slices(
    divisions: Sequence[Slices], scores: FloatArray, names: Sequence[str], cutoffs: Sequence[int], cutoff: int
) -> list[Slice]:
    metrics = metric_names(cutoffs)
    columns = {f"{metric}@{cutoff}": metrics.index(f"{metric}@{cutoff}") for metric in METRICS}
    found = []
    for division in divisions:
        for code, label in enumerate(division.labels):
            members = scores[division.groups == code]
            values = {
                name: {
                    metric: float(members[:, s, m].mean()) if len(members) else None for metric, m in columns.items()
                }
                for s, name in enumerate(names)
            }
            found.append(Slice(division.name, label, len(members), values))
    return found


def _notices(
    ranked: dict[str, RankedItems], queries: Queries, popularity: IntArray, found: Categories | None
) -> list[str]:
    notices = []
    for name, r in ranked.items():
        depth = int((r.items >= 0).any(axis=0).sum())
        if depth < min(r.items.shape[1], len(popularity)):
            notices.append(f"{name} returned at most {depth} items a user; metrics at larger cutoffs do not change.")
        if r.users_without_rows:
            notices.append(f"{name} returned nothing for {r.users_without_rows:,} users; they count as misses.")
        if r.out_of_catalogue_items:
            notices.append(f"{name} returned {r.out_of_catalogue_items:,} out-of-catalogue items.")
        if r.repeated_items:
            notices.append(f"{name} repeated an item within a list {r.repeated_items:,} times.")
    if found is None:
        notices.append("No slices by category: no category column divides the catalogue.")
    elif (found.codes < 0).any():
        notices.append(f"{int((found.codes < 0).sum()):,} items have no category; they are in no category slice.")
    cold = int((popularity[queries.targets] == 0).sum())
    notices.append(
        f"{cold:,} of {len(queries):,} users have a cold-start target, an item without training interactions."
    )
    return notices
