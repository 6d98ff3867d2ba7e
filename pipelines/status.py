"""The tables of `recsys status`: the stages of a run, or of the runs of several seeds.

Reads run directories; writes only to the console.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from pipelines.combine import combined_status
from pipelines.config import RunConfig
from pipelines.runner import StageStatus, status
from pipelines.seeds import seed_config
from recsys.artifacts import RunDirectory

STYLES = {"current": "green", "stale": "yellow", "missing": "dim", "damaged": "red"}


def status_table(config: RunConfig, directory: RunDirectory) -> Table:
    """One row a stage."""
    table = Table("stage", "folder", "state", "seconds", "why", box=None, header_style="bold")
    for entry in status(config, directory, config.stages):
        seconds = "" if entry.seconds is None else f"{entry.seconds:.1f}"
        table.add_row(entry.stage.name, entry.stage.folder, _state(entry), seconds, Text(entry.reason))
    return table


def seeds_table(config: RunConfig, directory: RunDirectory, runs: Mapping[int, RunDirectory]) -> Table:
    """One row a stage and one column a seed, and last the report of all seeds."""
    table = Table("stage", "folder", *(f"seed {seed}" for seed in runs), "why", box=None, header_style="bold")
    columns = [status(seed_config(config, seed), run, config.stages) for seed, run in runs.items()]
    for entries in zip(*columns, strict=True):
        stage, states = entries[0].stage, [_state(entry) for entry in entries]
        table.add_row(stage.name, stage.folder, *states, Text(_why(list(runs), entries)))
    combined = combined_status(config, directory)
    others = [""] * (len(runs) - 1)
    table.add_row(combined.stage.name, combined.stage.folder, _state(combined), *others, Text(combined.reason))
    return table


def _state(entry: StageStatus) -> Text:
    return Text(entry.state, STYLES[entry.state])


def _why(seeds: Sequence[int], entries: Sequence[StageStatus]) -> str:
    """The first reason that a seed's stage is not current."""
    reasons = (f"seed {seed}: {entry.reason}" for seed, entry in zip(seeds, entries, strict=True) if entry.reason)
    return next(reasons, "")
