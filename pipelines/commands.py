"""The commands of `pipelines.cli` about runs: resolve the configuration, lock the run, run stages, show results.

Reads recipes and run directories; writes run directories (through the runner) and the MLflow store beside them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import FOLDERS, STAGE_NAMES, STAGES, summary
from pipelines.comparison import comparison, warn_of_different_data
from pipelines.config import CONFIG, RunConfig, dump_yaml, load_config, recipes, stored_config
from pipelines.execution import Execution, RunOptions
from pipelines.inspection import inspect_source
from pipelines.inspection_view import show_inspection
from pipelines.seeds import run_seeds, runs_folder, seed_configs, seed_runs
from pipelines.status import seeds_table, status_table
from recsys.artifacts import RunDirectory
from recsys.config import nearest
from recsys.errors import ConfigError
from recsys.files import write_text
from recsys.tables import POLICIES

PACKAGES = ("recsys", "pipelines", "serving")


def run(
    config: str,
    settings: Sequence[str],
    *,
    out: Path | None,
    first: str,
    last: str,
    seeds: int | None = None,
    options: RunOptions,
) -> None:
    """`recsys run`; with `seeds`, everything after the dataset under so many of them."""
    selected = _between(first, last)
    resolved = load_config(config, settings)
    directory = RunDirectory(out or Path("runs") / Path(config).stem, FOLDERS)
    finishes = last == STAGES[-1].name
    if seeds is None:
        _execute(resolved, directory, selected, options)
        if finishes:
            summary.show(directory, Console())
        return
    runs = _execute_seeds(resolved, directory, selected, options, seed_configs(resolved, seeds), combined=finishes)
    if finishes:
        summary.show_seeds(directory, next(iter(runs.values())), Console())


def stage(name: str, path: Path, options: RunOptions) -> None:
    """`recsys STAGE`: one stage of an existing run, with the configuration of that run."""
    directory = RunDirectory(path, FOLDERS)
    config = stored_config(directory)
    if name not in (stage.name for stage in config.stages):
        raise ConfigError(
            f"tokenize.kind={config.tokenize.kind} has no stage '{name}'; "
            f"run it with `recsys run --config ... --set tokenize.kind=both --out {path}`"
        )
    _execute(config, directory, [name], options)


def show_instructions(path: Path, count: int) -> None:
    """`recsys instruct RUN --show N`: what the language model is trained on."""
    from pipelines.instruct_view import show_examples, shown_examples

    directory = RunDirectory(path, FOLDERS)
    examples = shown_examples(directory, count, seed=stored_config(directory).seed)
    show_examples(examples, Console(highlight=False))


def inspect(source: str, config: str, settings: Sequence[str], *, as_json: bool) -> bool:
    """`recsys inspect`; whether the source would be imported."""
    inspection = inspect_source(source, config=config, settings=settings)
    if as_json:
        sys.stdout.write(json.dumps(inspection.to_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        show_inspection(inspection, Console(highlight=False))
    return inspection.refusal is None


def configs() -> None:
    """`recsys configs`: the recipes, each with the command that runs it."""
    table = Table("recipe", "command", box=None, header_style="bold")
    for name, text in recipes().items():
        table.add_row(name, Text(text.splitlines()[0].lstrip("# ")))
    Console().print(table)


def status(path: Path) -> None:
    """`recsys status`."""
    directory = RunDirectory(path, FOLDERS)
    config, runs = stored_config(directory), seed_runs(directory)
    if not runs or directory.folder("recommend").exists():
        Console().print(status_table(config, directory))
    if runs:
        Console().print(seeds_table(config, directory, runs))


def compare(paths: Sequence[Path], metric: str, policy: str | None) -> None:
    """`recsys compare`, of one policy or of all, one table each."""
    tables = [comparison(paths, metric, each) for each in POLICIES if policy in (None, each)]
    with logging_to(Console(stderr=True)):
        warn_of_different_data(paths)
        for number, table in enumerate(tables):
            Console().print(*[""] * min(number, 1), table)


def _execute(config: RunConfig, directory: RunDirectory, selected: Sequence[str], options: RunOptions) -> None:
    console = Console(stderr=True)
    execution = Execution(console, options, home=runs_folder(directory))
    with logging_to(console), directory.lock():
        execution(config, directory, selected, [] if options.force else [*seed_runs(directory).values()])


def _execute_seeds(
    config: RunConfig,
    directory: RunDirectory,
    selected: Sequence[str],
    options: RunOptions,
    configs: Mapping[int, RunConfig],
    *,
    combined: bool,
) -> dict[int, RunDirectory]:
    """Run the selected stages under every seed and, if `combined`, evaluate them together; seed -> run."""
    console = Console(stderr=True)
    execution = Execution(console, options, home=runs_folder(directory))
    with logging_to(console), directory.lock():
        write_text(directory.path / CONFIG, dump_yaml(config))
        runs = run_seeds(configs, directory, selected, execution, force=options.force)
        if combined:
            execution.combine(config, directory, runs)
    return runs


def _between(first: str, last: str) -> list[str]:
    for name in (first, last):
        if name not in STAGE_NAMES:
            raise ConfigError(
                f"unknown stage '{name}'{nearest(name, STAGE_NAMES)}; stages are {', '.join(STAGE_NAMES)}"
            )
    start, stop = STAGE_NAMES.index(first), STAGE_NAMES.index(last)
    if start > stop:
        raise ConfigError(f"--from {first} comes after --to {last}; the order is {', '.join(STAGE_NAMES)}")
    return list(STAGE_NAMES[start : stop + 1])


class _ConsoleHandler(logging.Handler):
    """Prints log lines above the progress bars, as plain text."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._console.print(f"{prefix}{record.getMessage()}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def logging_to(console: Console) -> Iterator[None]:
    """Show the log lines of our packages within the block."""
    handler, loggers = _ConsoleHandler(console), [logging.getLogger(name) for name in PACKAGES]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
