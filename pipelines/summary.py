"""The summary that `recsys run` prints: metrics of every system, ten recommendations for one user, next commands.

Reads 01_dataset, 08_recommendations and 09_report of a run, or 10_combined_report; writes only to the console.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import COMBINE
from pipelines.history_option import history_option, user_option
from recsys.artifacts import RunDirectory
from recsys.data.policy import ServedPolicy
from recsys.evaluation.estimates import shown_p
from recsys.files import read_json
from recsys.ranking.registry import GENERATIVE
from recsys.tables import TEST, Catalog, Interactions, Policy, Rankings

SHOWN = 10
HISTORY = 5
METRICS = {"HR@10": "hr@10", "NDCG@10": "ndcg@10"}


def show(directory: RunDirectory, console: Console) -> None:
    """Print the summary of a finished run."""
    report, dataset = directory.verified("evaluate"), directory.verified("prepare")
    served = ServedPolicy.load(directory.verified("recommend"))
    _show_metrics(read_json(report / "metrics.json"), console)
    console.print(f"\nserved policy: {served}", markup=False, highlight=False)
    rankings = Rankings.load(directory.verified("recommend") / "rankings.parquet").under(served.policy)
    catalog = Catalog.load(dataset / "items.parquet")
    frame = Interactions.load(dataset / "interactions.parquet").frame
    if not len(rankings):
        console.print("no user has a history to recommend from")
        return
    user, source = rankings.frame["user_id"][0], rankings.sources[-1]
    history = frame.filter((pl.col("user_id") == user) & (pl.col("split") < TEST))["item_id"].to_list()[-HISTORY:]
    titles = dict(zip(catalog.item_ids, catalog.titles(), strict=True))
    console.print()
    console.print(f"user {user}, last items:", markup=False, highlight=False)
    for item_id in history:
        console.print(Text(f"    {titles[item_id]}"), no_wrap=True, overflow="ellipsis")
    console.print()
    console.print(_recommendations(rankings, titles, user=user, source=source))
    console.out(f"\nreport: {report / 'report.html'}", highlight=False)
    if GENERATIVE in rankings.sources:
        for line in _commands(str(directory.path), history, user):
            console.out(line, highlight=False)  # as it is, for a shell: `print` would replace a :word: by an emoji


def _commands(run: str, history: Sequence[str], user: str) -> Iterator[str]:
    run = shlex.quote(f"./{run}" if run.startswith("-") else run)
    yield f"try:    {_program()} query {run} {history_option(history)} -k {SHOWN}"
    if user.isprintable():
        yield f"or:     {_program()} query {run} {user_option(user)} -k {SHOWN}"
    yield f"serve:  {_program()} serve {run}"


def show_seeds(directory: RunDirectory, first: RunDirectory, console: Console) -> None:
    """Print the summary of the runs of several seeds, of which `first` is one."""
    report = directory.verified(COMBINE.name)
    metrics = read_json(report / "metrics.json")
    _show_metrics(metrics, console)
    seeds = ", ".join(map(str, metrics["seeds"]))
    for line in (
        f"\n± is the standard deviation over the seeds {seeds}",
        f"report: {report / 'report.html'}",
        f"serve:  {_program()} serve {shlex.quote(str(first.path))}",
    ):
        console.out(line, highlight=False)


def _show_metrics(measured: Mapping[str, Any], console: Console) -> None:
    console.print()
    console.print(_systems(measured["policies"]))
    console.print()
    for policy, found in measured["policies"].items():
        for line in _lead(found, f"ndcg@{measured['slice_cutoff']}", measured["num_resamples"]):
            console.print(f"{policy}: {line}", markup=False, highlight=False, soft_wrap=True)


def _lead(found: Mapping[str, Any], metric: str, num_resamples: int) -> Iterator[str]:
    """How far the best system is ahead of the next one, and how sure that is; nothing where there is one alone."""
    best = sorted(found["systems"], key=lambda name: -found["systems"][name]["metrics"][metric]["value"])[:2]
    for c in found["comparisons"]:
        if c["metric"] == metric and {c["better"], c["worse"]} == set(best):
            difference, floor = c["difference"], c["p_holm_at_floor"]
            spread = f" ± {difference['deviation']:.4f}" if "deviation" in difference else ""
            yield (
                f"{c['better']} is {difference['value']:.4f}{spread} ahead of {c['worse']} in {metric.upper()}, "
                f"{shown_p(c['p_holm'], at_floor=floor)}"
                + (f" (floor of {num_resamples:,} resamples)" if floor else "")
            )


def _program() -> str:
    """How to call this program: `recsys` if it is on the PATH, else the path it was started with."""
    return "recsys" if shutil.which("recsys") else shlex.quote(sys.argv[0])


def _systems(policies: Mapping[Policy, Any]) -> Table:
    """Every system's metrics under each policy, in columns of their own."""
    columns = [(policy, title, key) for policy in policies for title, key in METRICS.items()]
    table = Table("system", *(f"{title}\n{policy}" for policy, title, _ in columns), box=None, header_style="bold")
    for name in next(iter(policies.values()))["systems"]:
        figures = [policies[policy]["systems"][name]["metrics"].get(key) for policy, _, key in columns]
        table.add_row(name, *map(_figure, figures))
    return table


def _figure(found: Mapping[str, float] | None) -> str:
    """A mean, and its deviation over seeds where there are several; "-" where it was not measured."""
    if found is None:
        return "-"
    if "deviation" not in found:
        return f"{found['value']:.4f}"
    return "±".join(f"{found[part]:.4f}".removeprefix("0") for part in ("value", "deviation"))


def _recommendations(rankings: Rankings, titles: dict[str, str], *, user: str, source: str) -> Table:
    table = Table("rank", "item_id", f"recommended ({source})", box=None, header_style="bold")
    chosen = rankings.frame.filter((pl.col("user_id") == user) & (pl.col("source") == source)).sort("rank").head(SHOWN)
    for rank, item_id in chosen.select("rank", "item_id").iter_rows():
        table.add_row(str(rank), Text(item_id), Text(titles[item_id]))
    return table
