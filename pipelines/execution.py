"""How commands run stages: with progress on the console, logged to MLflow, on the chosen executor.

Writes run directories (through the runner) and the MLflow store beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from pipelines import COMBINE
from pipelines.combine import combine, is_combined
from pipelines.config import CONFIG, RunConfig, dump_yaml, flatten
from pipelines.executors import Kind, choose_executor
from pipelines.processes import check_processes, load_stage_for
from pipelines.progress import progress_tracker
from pipelines.runner import run_stages, status
from recsys.artifacts import RunDirectory
from recsys.files import write_text
from recsys.tracking import MlflowTracker, NullTracker, Tracker


class RunOptions(NamedTuple):
    """How stages run: again even if up to date (`force`), logged to MLflow (`tracking`), on which executor.

    `processes` train the language model together.
    """

    force: bool = False
    tracking: bool = True
    executor: Kind = "local"
    workers: int | None = None
    processes: int = 1


class Execution:
    """Runs stages in directories whose lock is held: with progress, and logged to the store in `home`."""

    def __init__(self, console: Console, options: RunOptions, *, home: Path) -> None:
        self._console, self._options, self._home = console, options, home
        self._executor = choose_executor(options.executor, options.workers)
        if options.processes > 1:
            check_processes(options.processes)

    def __call__(
        self, config: RunConfig, directory: RunDirectory, selected: Sequence[str], siblings: Sequence[RunDirectory]
    ) -> None:
        write_text(directory.path / CONFIG, dump_yaml(config))
        states = status(config, directory, config.stages)
        idle = all(entry.state == "current" for entry in states if entry.stage.name in selected)
        with self._tracker(config, directory, idle=idle) as tracker:
            run_stages(
                config,
                directory,
                config.stages,
                selected=selected,
                tracker=tracker,
                force=self._options.force,
                executor=self._executor,
                load=partial(load_stage_for, self._options.processes),
                siblings=siblings,
            )

    def combine(self, config: RunConfig, directory: RunDirectory, runs: Mapping[int, RunDirectory]) -> None:
        """Evaluate the runs of several seeds together, unless that is current."""
        idle = is_combined(config, directory, runs)
        with self._tracker(config, directory, idle=idle, report=COMBINE.name) as tracker:
            if self._options.force or not idle:
                combine(config, directory, runs, tracker)

    @contextmanager
    def _tracker(
        self, config: RunConfig, directory: RunDirectory, *, idle: bool, report: str = "evaluate"
    ) -> Iterator[Tracker]:
        wanted = self._options.tracking and (self._options.force or not idle)
        logged = _mlflow(config, directory, self._home, report) if wanted else nullcontext(NullTracker())
        with logged as tracker, progress_tracker(tracker, self._console) as shown:
            yield shown


@contextmanager
def _mlflow(config: RunConfig, directory: RunDirectory, home: Path, report: str) -> Iterator[Tracker]:
    """MLflow's tracker within the block; it gets the files of the stage `report` too."""
    tracker = MlflowTracker(directory.path, flatten(config.model_dump(mode="json")), home=home)
    outcome = "FAILED"
    try:
        yield tracker
        outcome = "FINISHED"
    except KeyboardInterrupt:
        outcome = "KILLED"
        raise
    finally:
        data = directory.record("prepare")
        if data is not None:
            tracker.tag("data_fingerprint", data.fingerprint())
        if outcome == "FINISHED":
            for name in ("metrics.json", "report.html"):
                if (directory.folder(report) / name).exists():
                    tracker.file(directory.folder(report) / name)
        tracker.close(outcome)
