"""report.html of several seeds: their evaluation together, as one responsive page that needs no network.

Reads results in memory and the template beside it; returns the page as a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from recsys.data.policy import ServedPolicy
from recsys.evaluation import plots
from recsys.evaluation.metrics import metric_names
from recsys.evaluation.pages import render
from recsys.evaluation.policies import MEANINGS, TITLES
from recsys.evaluation.published import PublishedComparison, published_section
from recsys.evaluation.report import METRIC_NAMES, SIGNIFICANT
from recsys.evaluation.seeds import SeedEvaluation, SeedPolicyEvaluation
from recsys.tables import Policy


@dataclass(frozen=True)
class SeedReport:
    """What the page shows; everything but the title and the evaluation may be missing.

    `links` has the address of each seed's own report; `configuration` is YAML.
    """

    title: str
    evaluation: SeedEvaluation
    served: ServedPolicy | None = None
    published: PublishedComparison | None = None
    links: Mapping[int, str] = field(default_factory=dict)
    configuration: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


class View(NamedTuple):
    """One policy: its name, its figures, and the highest mean of each metric."""

    policy: Policy
    title: str
    meaning: str
    found: SeedPolicyEvaluation
    best: dict[str, float]


def render_seed_report(report: SeedReport) -> str:
    """The page. Texts from the data are escaped."""
    evaluation, metric = report.evaluation, f"ndcg@{report.evaluation.slice_cutoff}"
    views = [_view(evaluation, policy) for policy in evaluation.policies]
    first = views[0].found.systems
    return render(
        "seeds.html",
        report=report,
        evaluation=evaluation,
        views=views,
        styles=plots.style_of(list(first)),
        metric_names=METRIC_NAMES,
        significant=SIGNIFICANT,
        published=published_section(report.published),
        leader=max(first, key=lambda name: first[name].metrics[metric].value),
    )


def _view(evaluation: SeedEvaluation, policy: Policy) -> View:
    found, columns = evaluation.policies[policy], metric_names(evaluation.cutoffs)
    best = {name: max(system.metrics[name].value for system in found.systems.values()) for name in columns}
    return View(policy, TITLES[policy], MEANINGS[policy], found, best)
