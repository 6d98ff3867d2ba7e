"""Published figures on known datasets, beside a run's own.

Reads `published.json`: per dataset its sizes and fingerprint, and rows as published, each with its source and what is
known of its policy. Figures are comparable only on the same split of the same data, so that is what is recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, NamedTuple, get_args

import polars as pl
from markupsafe import Markup
from pydantic import Field, TypeAdapter

from recsys.config import Config
from recsys.data.dataset import Dataset
from recsys.evaluation.estimates import Estimate
from recsys.evaluation.pages import fragment
from recsys.files import text_sha256
from recsys.tables import Interactions

Metric = Literal["hr@5", "hr@10", "ndcg@5", "ndcg@10"]
METRICS: tuple[Metric, ...] = get_args(Metric)
STRENGTH: Metric = "hr@10"  # the metric that every published row has
SEEN_KEPT = "seen kept"
Value = Annotated[float, Field(ge=0, le=1)]


class Source(Config):
    """Where a row's figures were published; None where that is not recorded."""

    title: str | None
    year: int | None


class PublishedRow(Config):
    """One published system. `policy` says whether seen items could be recommended, as far as its code shows."""

    name: str
    parameters: int | None
    metrics: dict[Metric, Value]
    source: Source
    policy: Literal["seen kept", "unknown"]


class PublishedDataset(Config):
    """A split dataset and what was published on it; `sha256` is the fingerprint of its interactions."""

    name: str
    split: Literal["leave-one-out"]
    users: int
    items: int
    interactions: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: tuple[PublishedRow, ...]


class ComparedRow(NamedTuple):
    """A published row, or a system of the run (`ours`); metrics that it lacks are None."""

    name: str
    ours: bool
    metrics: dict[Metric, float | None]
    parameters: int | None
    policy: str
    source: str


class PublishedComparison(NamedTuple):
    """All rows on one dataset, strongest first."""

    dataset: PublishedDataset
    rows: list[ComparedRow]


@cache
def published_datasets() -> tuple[PublishedDataset, ...]:
    """Everything in `published.json`."""
    text = (files("recsys.evaluation") / "published.json").read_text(encoding="utf-8")
    return TypeAdapter(tuple[PublishedDataset, ...]).validate_json(text)


def published_on(dataset: Dataset) -> PublishedDataset | None:
    """What was published on exactly these interactions, split alike, with this many items to rank; None if nothing."""
    for known in published_datasets():
        sizes = (known.items, known.interactions) == (len(dataset.catalog), len(dataset.interactions))
        if sizes and known.sha256 == fingerprint(dataset.interactions):
            return known
    return None


def fingerprint(interactions: Interactions) -> str:
    """sha256 of every user's items in order, each with its split, whatever the users are called and their order."""
    steps = pl.concat_str("item_id", "split", separator=":").str.join(" ").alias("steps")
    users = interactions.frame.group_by("user_id", maintain_order=True).agg(steps)
    return text_sha256("\n".join(users["steps"].sort()))


def compared(
    published: PublishedDataset,
    systems: Mapping[str, Mapping[str, Estimate]],
    seen: Mapping[str, float | None] | None = None,
) -> PublishedComparison:
    """Published rows and a run's own, strongest first by HR@10.

    Args:
        systems: metrics of the run's, ranked with seen items kept as published rows are; those without HR@10 are left
            out.
        seen: share of each one's listed items that are in the history, where it is known.
    """
    rows = [_published_row(row) for row in published.rows]
    rows += [
        _own_row(name, metrics, (seen or {}).get(name)) for name, metrics in systems.items() if STRENGTH in metrics
    ]
    return PublishedComparison(published, sorted(rows, key=lambda row: -(row.metrics[STRENGTH] or 0.0)))


def published_section(comparison: PublishedComparison | None) -> Markup:
    """The section of a report; empty where nothing was published on its dataset."""
    return Markup("") if comparison is None else fragment("published.html", published=comparison)


def _published_row(row: PublishedRow) -> ComparedRow:
    source = f"{row.source.title}, {row.source.year}" if row.source.title else "not recorded"
    metrics: dict[Metric, float | None] = {metric: row.metrics.get(metric) for metric in METRICS}
    return ComparedRow(row.name, False, metrics, row.parameters, row.policy, source)


def _own_row(name: str, estimates: Mapping[str, Estimate], seen: float | None) -> ComparedRow:
    """The policy tells how often seen items are recommended: a model that learned not to repeat gains by it."""
    found = (estimates.get(metric) for metric in METRICS)
    metrics = {metric: estimate.value if estimate else None for metric, estimate in zip(METRICS, found, strict=True)}
    policy = SEEN_KEPT if seen is None else f"{SEEN_KEPT}, {seen:.1%} of the listed items are seen"
    return ComparedRow(name, True, metrics, None, policy, "this run")
