"""The table of `recsys compare`: one metric of every system in several runs, with mean and standard deviation.

Reads 01_dataset's fingerprint and 09_report of each run; writes only to the console.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text

from pipelines import FOLDERS
from pipelines.seeds import require_own_run
from recsys.artifacts import RunDirectory
from recsys.config import lookup
from recsys.files import read_json
from recsys.tables import Policy

logger = logging.getLogger(__name__)


def comparison(paths: Sequence[Path], metric: str, policy: Policy) -> Table:
    """One row per system and one column per run, under one policy; several runs also get mean and standard deviation.

    Raises:
        ArtifactError: a run has no report, or a damaged one.
        ConfigError: a run's report has no such metric.
    """
    directories = [RunDirectory(path, FOLDERS) for path in paths]
    runs = [_figures(directory, metric, policy) for directory in directories]
    several = len(paths) > 1
    table = Table(f"{metric}, {policy}", *(Column(Text(path.name)) for path in paths), box=None, header_style="bold")
    for column in ("mean", "deviation") if several else ():
        table.add_column(column)
    for system in dict.fromkeys(name for run in runs for name in run):
        found = [run[system] for run in runs if system in run]
        shown = [f"{run[system]:.4f}" if system in run else "-" for run in runs]
        spread = f"{statistics.stdev(found):.4f}" if len(found) > 1 else "-"
        table.add_row(system, *shown, *((f"{statistics.mean(found):.4f}", spread) if several else ()))
    return table


def _figures(directory: RunDirectory, metric: str, policy: Policy) -> dict[str, float]:
    """The metric of every system of a run."""
    require_own_run(directory)
    systems = read_json(directory.verified("evaluate") / "metrics.json")["policies"][policy]["systems"]
    key = f"--metric of {directory.path}"
    return {name: float(lookup(system["metrics"], metric, key=key)["value"]) for name, system in systems.items()}


def warn_of_different_data(paths: Sequence[Path]) -> None:
    """Warn of runs on different data than the first: their metrics cannot be compared."""
    directories = [RunDirectory(path, FOLDERS) for path in paths]
    first, *others = (directory.existing_record("prepare").fingerprint() for directory in directories)
    for directory, fingerprint in zip(directories[1:], others, strict=True):
        if fingerprint != first:
            logger.warning(
                "%s has different data than %s; their metrics cannot be compared", directory.path, directories[0].path
            )
