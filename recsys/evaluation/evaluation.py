"""Evaluation of rankings: every figure in the report and in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.histories import interaction_counts, queries, training_histories
from recsys.errors import DataError
from recsys.evaluation.beyond import Beyond, beyond_accuracy
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.estimates import Comparison, Estimate, EvaluationBase, estimate
from recsys.evaluation.metrics import METRICS, RankedItems, metric_names, ranked_sources, source_scores
from recsys.evaluation.notices import data_notices, list_notices, shortened_notices
from recsys.evaluation.policies import by_policy
from recsys.evaluation.slices import (
    Categories,
    Slices,
    by_category,
    by_history_length,
    by_repetition,
    by_target_popularity,
    categories,
    seen_targets,
)
from recsys.metrics import FloatArray, IntArray
from recsys.tables import POLICIES, SEEN_KEPT, SEEN_LEFT_OUT, TEST, Catalog, Policy, Queries, Rankings


@dataclass(frozen=True)
class System:
    """One source of rankings. `metrics` is keyed by `metric@cutoff`; all else is computed at the slice cutoff.

    `hits_on_seen` is the share of hits whose target is in the user's history; None without any hit.
    """

    metrics: dict[str, Estimate]
    beyond: Beyond
    hits_on_seen: float | None
    users_without_rows: int
    out_of_catalogue_items: int
    repeated_items: int


@dataclass(frozen=True)
class Slice:
    """One group of users. `values` is system -> metric -> mean; None where the group is empty."""

    name: str
    label: str
    users: int
    values: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class PolicyEvaluation:
    """All systems on all users under one policy. `notices` are sentences about irregular lists."""

    systems: dict[str, System]
    comparisons: list[Comparison]
    slices: list[Slice]
    notices: list[str]


@dataclass(frozen=True)
class Evaluation(EvaluationBase):
    """All systems on all users under each policy, seen items kept first. `notices` are sentences about the data."""

    format = 2

    policies: dict[Policy, PolicyEvaluation]
    notices: list[str]

    @property
    def headline(self) -> PolicyEvaluation:
        """With seen items kept; under the only policy where there is one alone."""
        return next(iter(self.policies.values()))


def evaluate(
    rankings: Rankings, dataset: Dataset, config: EvaluateConfig | None = None, *, seed: int = 0
) -> Evaluation:
    """Measure every source of `rankings` on the test users of a dataset, with seen items kept and left out.

    Rankings without a column `policy` are read under both policies: as they are, and without the items of each user's
    history.

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
    """Measure every source of `rankings` on every user of `queries`, under each policy.

    A user whose target a source did not return, or for whom it returned nothing, is a miss.

    Args:
        popularity: `[N]` training interactions of each item of the catalogue.
        generator: draws the bootstrap resamples and the sign flips.

    Raises:
        DataError: no users, no rankings, or two rows for one rank of a user.
    """
    _check(rankings, queries, catalog, popularity)
    cutoffs = tuple(sorted({*config.cutoffs, config.slice_cutoff}))
    found = categories(catalog)
    users = _Users(queries, catalog, popularity, found, cutoffs)
    ranked = {policy: users.ranked(read) for policy, read in by_policy(rankings, queries, catalog).items()}
    # A policy's intervals do not depend on whether there is another one.
    generators = dict(zip(POLICIES, generator.spawn(len(POLICIES)), strict=True))
    policies = {policy: _measured(users, lists, config, generators[policy]) for policy, lists in ranked.items()}
    if not rankings.policies:
        shortened = shortened_notices(ranked[SEEN_LEFT_OUT], ranked[SEEN_KEPT], cutoffs[-1])
        policies[SEEN_LEFT_OUT].notices.extend(shortened)
    return Evaluation(
        users=len(queries),
        items=len(catalog),
        cutoffs=cutoffs,
        slice_cutoff=config.slice_cutoff,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        policies=policies,
        notices=data_notices(queries, popularity, found),
    )


class _Users(NamedTuple):
    """Who is evaluated, and on what."""

    queries: Queries
    catalog: Catalog
    popularity: IntArray
    categories: Categories | None
    cutoffs: tuple[int, ...]

    def ranked(self, rankings: Rankings) -> dict[str, RankedItems]:
        """The lists of every source, as deep as the largest cutoff."""
        return ranked_sources(rankings, user_ids=self.queries.user_ids, catalog=self.catalog, depth=self.cutoffs[-1])

    def divisions(self) -> list[Slices]:
        found = [by_history_length(self.queries), by_target_popularity(self.queries, self.popularity)]
        found += [by_category(self.queries, self.categories)] if self.categories else []
        return found + ([by_repetition(self.queries)] if seen_targets(self.queries).any() else [])


def _measured(
    users: _Users, ranked: dict[str, RankedItems], config: EvaluateConfig, generator: np.random.Generator
) -> PolicyEvaluation:
    """All systems under one policy."""
    targets, cutoffs, cutoff = users.queries.targets, users.cutoffs, config.slice_cutoff
    scores = source_scores(ranked, targets, cutoffs=cutoffs)
    found = estimate(
        scores[None], systems=list(ranked), metrics=metric_names(cutoffs), config=config, generator=generator
    )
    return PolicyEvaluation(
        systems={name: _system(r, found.means[name], users, cutoff) for name, r in ranked.items()},
        comparisons=found.comparisons,
        slices=_slices(users.divisions(), scores, list(ranked), cutoffs, cutoff),
        notices=list_notices(ranked, len(users.catalog)),
    )


def _check(rankings: Rankings, queries: Queries, catalog: Catalog, popularity: IntArray) -> None:
    if not len(queries):
        raise DataError("no user has a target to evaluate on; the data need users with at least 2 interactions")
    if not len(rankings):
        raise DataError("the rankings are empty; run the stage 'recommend' with at least one system")
    if len(popularity) != len(catalog):
        raise DataError(f"popularity has {len(popularity)} entries for {len(catalog)} items; give one an item")


def _system(ranked: RankedItems, accuracy: dict[str, Estimate], users: _Users, cutoff: int) -> System:
    items, queries = ranked.items[:, :cutoff], users.queries
    beyond = beyond_accuracy(
        items, histories=queries.histories, popularity=users.popularity, categories=users.categories
    )
    hit = (items == queries.targets[:, None]).any(axis=1)
    return System(
        accuracy,
        beyond,
        float(seen_targets(queries)[hit].mean()) if hit.any() else None,
        ranked.users_without_rows,
        ranked.out_of_catalogue_items,
        ranked.repeated_items,
    )


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
