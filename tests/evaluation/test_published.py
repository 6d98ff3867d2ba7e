"""Published rows are shown on the data and the split that they were measured on, and nowhere else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.evaluation import published
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.estimates import Estimate
from recsys.evaluation.evaluation import evaluate
from recsys.evaluation.published import (
    PublishedDataset,
    PublishedRow,
    compared,
    fingerprint,
    published_datasets,
    published_on,
)
from recsys.evaluation.report import Report, render_report
from recsys.evaluation.seeds import evaluate_seeds
from recsys.evaluation.seeds_report import SeedReport, render_seed_report
from recsys.tables import INTERACTION_SCHEMA, TEST, TRAIN, VALIDATION, Catalog, Interactions
from tests.evaluation import fakes

LISTS = {"u1": "abc", "u2": "bcad", "u3": "dcba", "u4": "fed"}


def dataset(lists: dict[str, str] = LISTS, *, validation: int = VALIDATION, items: str = "abcdef") -> Dataset:
    """Each user's items in order, the last one the target."""
    rows = [
        (user, item, time, {1: TEST, 2: validation}.get(len(steps) - time, TRAIN))
        for user, steps in lists.items()
        for time, item in enumerate(steps)
    ]
    frame = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
    return Dataset(Interactions(frame), Catalog(pl.DataFrame({"item_id": list(items)})), {})


def known_as(data: Dataset) -> PublishedDataset:
    """A dataset on which two rows were published, the weaker one first."""

    def row(name: str, **metrics: float) -> dict[str, object]:
        source = {"title": "A paper" if name == "Weak" else None, "year": 2024}
        metrics = {key.replace("_", "@"): value for key, value in metrics.items()}
        return {"name": name, "parameters": 5_000, "metrics": metrics, "source": source, "policy": "unknown"}

    return PublishedDataset.model_validate(
        {
            "name": "Tiny",
            "split": "leave-one-out",
            "users": data.interactions.frame["user_id"].n_unique(),
            "items": len(data.catalog),
            "interactions": len(data.interactions),
            "sha256": fingerprint(data.interactions),
            "rows": [row("Weak", hr_10=0.1, ndcg_10=0.05), row("Strong", hr_5=0.7, hr_10=0.8, ndcg_10=0.4)],
        }
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> PublishedDataset:
    found = known_as(dataset())
    monkeypatch.setattr(published, "published_datasets", lambda: (found,))
    return found


def own_rows() -> tuple[dict[str, dict[str, Estimate]], dict[str, float | None]]:
    """`good` has an HR@10 of .75, `popular` of .5, `wild` of .25; with the share of their items that are seen."""
    data = dataset({"u1": "acb", "u2": "abd", "u3": "bcf", "u4": "cda"})
    found = evaluate(fakes.rankings(), data, EvaluateConfig(cutoffs=(5, 10), num_resamples=100)).headline.systems
    return {name: s.metrics for name, s in found.items()}, {name: s.beyond.seen for name, s in found.items()}


def test_the_same_interactions_are_recognised_whatever_users_are_called(known: PublishedDataset) -> None:
    assert published_on(dataset()) is known
    renamed = {f"someone {number}": steps for number, steps in enumerate(reversed(LISTS.values()))}
    assert published_on(dataset(renamed)) is known


@pytest.mark.parametrize(
    "other",
    [
        dataset({**LISTS, "u1": "acb"}),  # validation and test swapped, all counts equal
        dataset({**LISTS, "u2": "cbad"}),  # training items in another order
        dataset({**LISTS, "u1": "abd", "u2": "bcac"}),  # targets of two users exchanged
        dataset(validation=TRAIN),  # without a validation item
        dataset(items="abcdefg"),  # one more item to rank
        dataset({name: steps for name, steps in LISTS.items() if name != "u4"}),
    ],
    ids=["target", "order", "exchanged", "split", "catalogue", "users"],
)
def test_other_data_or_another_split_is_not(known: PublishedDataset, other: Dataset) -> None:
    assert published_on(other) is None


def test_rows_are_ordered_by_strength_and_ours_are_marked(known: PublishedDataset) -> None:
    rows = compared(known, *own_rows()).rows
    assert [(row.name, row.ours) for row in rows] == [
        *(("Strong", False), ("good", True), ("popular", True), ("wild", True), ("Weak", False)),
    ]
    strong, good, *_, weak = rows
    assert strong.metrics == {"hr@5": 0.7, "hr@10": 0.8, "ndcg@5": None, "ndcg@10": 0.4}
    assert (strong.source, weak.source, good.source) == ("not recorded", "A paper, 2024", "this run")
    assert good.metrics["hr@10"] == 0.75
    assert good.policy == "seen kept, 28.6% of the listed items are seen"  # c for u1, b for u3, of seven


def test_a_system_without_the_metric_is_left_out(known: PublishedDataset) -> None:
    assert [
        row.name
        for row in compared(known, {name: s.metrics for name, s in fakes.evaluation().headline.systems.items()}).rows
    ] == ["Strong", "Weak"]


def test_the_report_shows_both_and_how_they_differ(known: PublishedDataset) -> None:
    report = Report("Compared", fakes.evaluation(), published=compared(known, *own_rows()))
    page = render_report(report)
    section = page.partition('<section id="published">')[2].partition("</section>")[0]
    assert re.findall(r"<tr(?: class=\"(best)\")?><th>([^<]*)</th><td>", section) == [
        *(("", "Strong"), ("best", "good (ours)"), ("best", "popular (ours)"), ("best", "wild (ours)"), ("", "Weak")),
    ]
    assert "differ or are unknown" in section
    assert "no row of it is comparable" not in section
    assert "<td>0.8000</td><td>–</td><td>0.4000</td><td>5,000</td>" in section
    assert '<td class="text">unknown</td><td class="text">not recorded</td>' in section
    assert "no row of it is comparable" in render_report(replace(report, published=compared(known, {})))
    assert "Published" not in render_report(replace(report, published=None))


def test_the_report_of_several_seeds_shows_them_too(known: PublishedDataset) -> None:
    lists = fakes.rankings()
    data = dataset({"u1": "acb", "u2": "abd", "u3": "bcf", "u4": "cda"})
    found = evaluate_seeds([(0, lists), (1, lists)], data, EvaluateConfig(cutoffs=(5, 10), num_resamples=100), seed=0)
    means = {name: system.metrics for name, system in found.policies["seen-kept"].systems.items()}
    page = render_seed_report(SeedReport("Seeds", found, published=compared(known, means)))
    section = page.partition('<section id="published">')[2].partition("</section>")[0]
    assert re.findall(r"<th>([^<]*)</th><td>", section) == [
        "Strong",
        "good (ours)",
        "popular (ours)",
        "wild (ours)",
        "Weak",
    ]
    assert "<td>0.7500</td>" in section
    assert "Published" not in render_seed_report(SeedReport("Seeds", found))


def test_every_published_row_has_what_rows_are_ordered_by() -> None:
    assert len(published_datasets()) == 2
    for known in published_datasets():
        values = [row.metrics["hr@10"] for row in known.rows]
        assert values == sorted(values, reverse=True)
        assert all(row.metrics["ndcg@10"] < row.metrics["hr@10"] for row in known.rows)
        assert len({row.name for row in known.rows}) == len(known.rows)


def test_the_table_of_the_results_page_is_the_data(root: Path) -> None:
    text = (root / "docs" / "results.md").read_text(encoding="utf-8")
    for known in published_datasets():
        table = text.partition(f"**{known.name}.**")[2].partition("\n\n|")[2].partition("\n\n")[0]
        rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
        shown = [(cells[0], *cells[1:5], cells[6]) for cells in rows]
        assert shown == [(row.name, *map(_shown, _values(row)), row.policy) for row in known.rows]


def test_the_line_of_the_readme_is_the_data(root: Path) -> None:
    line = (root / "README.md").read_text(encoding="utf-8").partition("[Published]")[2].partition("\n\n")[0]
    rows = [row for known in published_datasets() if "Beauty" in known.name for row in known.rows]
    assert re.findall(r"([\w-]+)\s(\.\d{4})/(\.\d{4})", line) == [
        (row.name.partition(",")[0], _shown(row.metrics["hr@10"]), _shown(row.metrics["ndcg@10"])) for row in rows
    ]


def _values(row: PublishedRow) -> list[float | None]:
    found: dict[str, float] = {**row.metrics}
    return [found.get(metric) for metric in published.METRICS]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".removeprefix("0")


def test_figures_are_rounded_as_they_were_published() -> None:
    values = np.array([value for known in published_datasets() for row in known.rows for value in row.metrics.values()])
    assert np.allclose(values * 10_000, np.round(values * 10_000))
