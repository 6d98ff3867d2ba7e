"""The summary that `recsys run` prints: metrics of every system, ten recommendations for one user, next commands.

Reads 01_dataset, 08_recommendations and 09_report of a run; writes only to the console.
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

from pipelines.history_option import history_option, user_option
from recsys.artifacts import RunDirectory
from recsys.data.policy import ServedPolicy
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
    console.print()
    console.print(_systems(read_json(report / "metrics.json")["policies"]))
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


def _program() -> str:
    """How to call this program: `recsys` if it is on the PATH, else the path it was started with."""
    return "recsys" if shutil.which("recsys") else shlex.quote(sys.argv[0])


def _systems(policies: Mapping[Policy, Any]) -> Table:
    """Every system's metrics under each policy, in columns of their own."""
    columns = [(policy, title, key) for policy in policies for title, key in METRICS.items()]
    table = Table("system", *(f"{title}\n{policy}" for policy, title, _ in columns), box=None, header_style="bold")
    for name in next(iter(policies.values()))["systems"]:
        figures = [policies[policy]["systems"][name]["metrics"].get(key) for policy, _, key in columns]
        table.add_row(name, *(f"{figure['value']:.4f}" if figure else "-" for figure in figures))
    return table


def _recommendations(rankings: Rankings, titles: dict[str, str], *, user: str, source: str) -> Table:
    table = Table("rank", "item_id", f"recommended ({source})", box=None, header_style="bold")
    chosen = rankings.frame.filter((pl.col("user_id") == user) & (pl.col("source") == source)).sort("rank").head(SHOWN)
    for rank, item_id in chosen.select("rank", "item_id").iter_rows():
        table.add_row(str(rank), Text(item_id), Text(titles[item_id]))
    return table
