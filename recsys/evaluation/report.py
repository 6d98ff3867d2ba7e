"""report.html: an evaluation and the training behind it as one responsive page that needs no network.

Reads results in memory and the template beside it; returns the page as a string. Sections without input are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recsys.data.policy import ServedPolicy
from recsys.evaluation import plots
from recsys.evaluation.data_section import data_section
from recsys.evaluation.evaluation import Evaluation, PolicyEvaluation, Slice
from recsys.evaluation.examples import Example
from recsys.evaluation.metrics import METRICS, metric_names
from recsys.evaluation.pages import render, words
from recsys.evaluation.plots import Curve
from recsys.evaluation.policies import MEANINGS, TITLES
from recsys.evaluation.published import PublishedComparison, published_section
from recsys.tables import Policy, SemanticIds

SIGNIFICANT = 0.05
LISTED = 4  # up to so many systems comparisons are listed; more are shown as a matrix
VALIDATION = "validation_ndcg@10"
METRIC_NAMES = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}
BEYOND = {
    "coverage": "share of the catalogue that was recommended at least once",
    "gini": "inequality of item exposure; 0 is equal exposure",
    "popularity": "mean training interactions of recommended items",
    "popularity_lift": "popularity of a list over that of the user's history",
    "novelty": "mean self-information of an item, in bits",
    "diversity": "share of a list's pairs of different categories",
    "miscalibration": "KL divergence of a list's categories from the history's, in bits",
    "seen": "share of recommended items that are already in the history",
    "hits_on_seen": "share of hits whose item is already in the history",
    "out_of_catalogue_items": "recommended items that are not in the catalogue",
}


@dataclass(frozen=True)
class Report:
    """What a report shows; everything but the title and the evaluation may be missing. Examples are of what is served.

    `curves` is keyed `part/metric`; `seconds` by stage; `timings` by system; `configuration` is YAML.
    """

    title: str
    evaluation: Evaluation
    served: ServedPolicy | None = None
    published: PublishedComparison | None = None
    examples: Sequence[Example] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    token_quality: Mapping[str, Any] | None = None
    semantic_ids: SemanticIds | None = None
    latent_quality: Mapping[str, Any] | None = None
    fusion: Mapping[str, Any] | None = None
    data_card: Mapping[str, Any] | None = None
    configuration: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """The page. Texts from the data are escaped; pictures and styles are embedded."""
    evaluation = report.evaluation
    quality = report.token_quality or {}
    tables, first = _tables(quality), evaluation.headline.systems
    return render(
        "report.html",
        report=report,
        evaluation=evaluation,
        views=[_view(evaluation, policy) for policy in evaluation.policies],
        styles=plots.style_of(list(first)),
        metric_names=METRIC_NAMES,
        beyond=BEYOND,
        significant=SIGNIFICANT,
        leader=max(first, key=lambda name: first[name].metrics[f"ndcg@{evaluation.slice_cutoff}"]),
        slice_metric=f"ndcg@{evaluation.slice_cutoff}",
        usage=plots.token_usage(report.semantic_ids) if report.semantic_ids else None,
        training={words(name): plots.training_curve(curve) for name, curve in report.curves.items()},
        validation=_validation(report.curves),
        token_tables=tables,
        token_summary={name: value for name, value in quality.items() if name not in tables},
        published=published_section(report.published),
        data=data_section(report.data_card or {}),
        data_counts={name: value for name, value in (report.data_card or {}).items() if name != "profile"},
        slowest=max(report.seconds.values(), default=0) or 1,
    )


class View(NamedTuple):
    """What the page shows of one policy, beside its figures: its name, tables and plots."""

    policy: Policy
    title: str
    meaning: str
    found: PolicyEvaluation
    best: dict[str, float]  # metric@cutoff -> the highest value
    matrices: dict[str, dict[str, list[Cell | None]]]
    by_cutoff: dict[str, str]
    slices: dict[str, tuple[str, list[Slice]]]
    lift: str | None


def _view(evaluation: Evaluation, policy: Policy) -> View:
    found, cutoffs = evaluation.policies[policy], evaluation.cutoffs
    columns = metric_names(cutoffs)
    return View(
        policy,
        TITLES[policy],
        MEANINGS[policy],
        found,
        best={name: max(system.metrics[name].value for system in found.systems.values()) for name in columns},
        matrices=_matrices(found),
        by_cutoff={metric: plots.metric_by_cutoff(found.systems, cutoffs, metric) for metric in METRICS},
        slices=_slices(found, f"ndcg@{evaluation.slice_cutoff}"),
        lift=plots.popularity_lift(found.systems),
    )


class Cell(NamedTuple):
    """The metric of a row's system minus that of a column's, and the corrected p-value of the difference."""

    difference: float
    p_holm: float
    p_holm_at_floor: bool


def _matrices(evaluation: PolicyEvaluation) -> dict[str, dict[str, list[Cell | None]]]:
    """Metric -> system -> its difference to every system; empty where there are few, whose comparisons are listed."""
    if len(evaluation.systems) <= LISTED:
        return {}
    cells: dict[tuple[str, str, str], Cell] = {}
    for c in evaluation.comparisons:
        cells[c.metric, c.better, c.worse] = Cell(c.difference.value, c.p_holm, c.p_holm_at_floor)
        cells[c.metric, c.worse, c.better] = Cell(-c.difference.value, c.p_holm, c.p_holm_at_floor)
    names = list(evaluation.systems)
    metrics = dict.fromkeys(c.metric for c in evaluation.comparisons)
    return {
        metric: {row: [cells.get((metric, row, column)) for column in names] for row in names} for metric in metrics
    }


def _slices(evaluation: PolicyEvaluation, metric: str) -> dict[str, tuple[str, list[Slice]]]:
    """Name of a slice -> its picture and its rows; groups without users are left out."""
    rows: dict[str, list[Slice]] = {}
    for entry in (s for s in evaluation.slices if s.users):
        rows.setdefault(entry.name, []).append(entry)
    return {name: (plots.slice_dots(group, metric), group) for name, group in rows.items()}


def _validation(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Part -> its validation NDCG@10 along training, in the order of the flow."""
    return {name.rpartition("/")[0]: curve for name, curve in curves.items() if name.endswith(f"/{VALIDATION}")}


def _tables(values: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The entries that are lists of records, such as one a level, as name -> row's name -> record."""
    return {
        name: {f"{words(name).removesuffix('s')} {row + 1}": entry for row, entry in enumerate(value)}
        for name, value in values.items()
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value)
    }
