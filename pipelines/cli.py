"""The command line: names, options and help texts.

`pipelines.commands` and `pipelines.query_commands` do the work and are imported on demand.

`recsys --help` therefore works without loading torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines import STAGES, serving_cli
from pipelines.options import Run, Settings
from recsys.errors import RecsysError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Generative recommendation: train on interactions and a catalogue, rank items, serve recommendations.\n\n"
    "Start with [bold]recsys run --config demo[/bold]. Stages in order: "
    + ", ".join(stage.name for stage in STAGES)
    + ".",
)

Force = Annotated[bool, typer.Option("--force", help="Run stages again even if they are up to date.")]
NoTracking = Annotated[bool, typer.Option("--no-tracking", help="Do not log to MLflow.")]
Processes = Annotated[
    int, typer.Option("--processes", min=1, help="Train the language model in so many processes, one per GPU or core.")
]
History = Annotated[
    list[str] | None,
    typer.Option(
        "--history",
        help="Item ids, oldest first; a JSON list where ids have commas. Repeatable.",
        metavar="ID,ID,...",
        show_default=False,
    ),
]
User = Annotated[str | None, typer.Option("--user", help="A user of the run, by all interactions.", metavar="ID")]
Count = Annotated[int, typer.Option("-k", min=1, help="Number of recommendations.")]
INTERRUPTED = 130
# Recent versions of typer vendor click, so its UsageError is found as the base class of BadParameter.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]
STAGE_PANEL = "Run one stage"


class ExecutorKind(StrEnum):
    """Where partitions of users are ranked; see `pipelines.executors`."""

    LOCAL = "local"
    RAY = "ray"


class PolicyName(StrEnum):
    """The policies of `recsys.tables`."""

    SEEN_KEPT = "seen-kept"
    SEEN_LEFT_OUT = "seen-left-out"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    # Declared for the help text only: `main` removes --debug from any position.
    pass


@app.command()
def run(
    *,
    config: Annotated[str, typer.Option("--config", help="Name of a recipe, or path of a YAML file.")],
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run directory; an existing one is resumed.", show_default="runs/CONFIG"),
    ] = None,
    first: Annotated[str, typer.Option("--from", help="First stage to run.", metavar="STAGE")] = STAGES[0].name,
    last: Annotated[str, typer.Option("--to", help="Last stage to run.", metavar="STAGE")] = STAGES[-1].name,
    executor: Annotated[
        ExecutorKind, typer.Option("--executor", help="Rank users in local processes or on a Ray cluster.")
    ] = ExecutorKind.LOCAL,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Number of worker processes.", show_default="1; one per core with Ray"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=2,
            help="Repeat everything after the dataset under so many seeds, in RUN/seeds/SEED, and combine them in one "
            "report.",
            show_default="one run",
        ),
    ] = None,
    processes: Processes = 1,
    force: Force = False,
    no_tracking: NoTracking = False,
) -> None:
    """Run all stages. Stages that are up to date are skipped, interrupted ones are resumed."""
    from pipelines import commands
    from pipelines.execution import RunOptions

    options = RunOptions(force, not no_tracking, executor.value, workers, processes)
    commands.run(config, settings or [], out=out, first=first, last=last, seeds=seeds, options=options)


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder or file of data, or 'synthetic'.")],
    *,
    config: Annotated[str, typer.Option("--config", help="Name of a recipe, or path of a YAML file.")] = "demo",
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what an import would make of data, with warnings; nothing is written. Exit code 2: they would be refused."""
    from pipelines import commands

    if not commands.inspect(source, config, settings or [], as_json=as_json):
        raise typer.Exit(2)


@app.command()
def configs() -> None:
    """List the recipes."""
    from pipelines import commands

    commands.configs()


@app.command()
def status(run: Run) -> None:
    """Show the state of every stage: current, stale, damaged or missing, and why."""
    from pipelines import commands

    commands.status(run)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished run directories.")],
    metric: Annotated[str, typer.Option("--metric", help="The metric to compare: ndcg@10, hr@5, ...")] = "ndcg@10",
    policy: Annotated[
        PolicyName | None,
        typer.Option("--policy", help="Seen items kept, or left out.", show_default="both, one table each"),
    ] = None,
) -> None:
    """Show one metric of several runs side by side, with mean and standard deviation."""
    from pipelines import commands

    commands.compare(runs, metric, policy and policy.value)


@app.command()
def query(
    run: Run,
    *,
    history: History = None,
    user: User = None,
    users: Annotated[
        Path | None,
        typer.Option(
            "--users",
            help="A table with the column user_id, for users of the run, or user_id and history (parquet, csv).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The parquet file that --users writes.", show_default=False)
    ] = None,
    k: Count = 10,
) -> None:
    """Recommend items with the models of a finished run, for one history, a user of the run, or a table of users."""
    if [bool(history), user is not None, users is not None].count(True) != 1:
        raise UsageError("give exactly one of --history, --user and --users")
    if (users is None) != (out is None):
        given, missing = ("--users", "--out FILE.parquet") if out is None else ("--out", "--users TABLE")
        raise UsageError(f"{given} needs {missing}: answers for a table of users are written to a file")
    from pipelines import query_commands
    from pipelines.history_option import parse_history

    if users is not None and out is not None:
        query_commands.query_users(run, users, out, k=k)
    else:
        query_commands.query(run, parse_history(history or ()), user=user, k=k)


@app.command()
def explain(run: Run, *, history: History = None, user: User = None, k: Count = 5) -> None:
    """Show how the language model of a finished run arrives at its list: the beam, its words, and what mattered."""
    if bool(history) == (user is not None):
        raise UsageError("give exactly one of --history and --user")
    from pipelines import query_commands
    from pipelines.history_option import parse_history

    query_commands.explain(run, parse_history(history or ()), user=user, k=k)


@app.command()
def refresh(
    run: Run,
    interactions: Annotated[
        Path, typer.Argument(metavar="INTERACTIONS", help="A table of new interactions with the run's items.")
    ],
    *,
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The new run directory; resumed if it exists.", show_default="beside RUN"),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", help="Last stage to run.", metavar="STAGE", show_default=STAGES[-1].name),
    ] = None,
    force: Force = False,
    no_tracking: NoTracking = False,
) -> None:
    """Continue the LoRA adapter of a finished run on interactions of a later period, in a run of its own."""
    from pipelines.execution import RunOptions
    from pipelines.refresh.command import refresh as refresh_run

    refresh_run(run, interactions, settings or [], out=out, last=last, options=RunOptions(force, not no_tracking))


def _stage_command(name: str) -> Callable[[Path, bool, bool], None]:
    def command(run: Run, force: Force = False, no_tracking: NoTracking = False) -> None:
        from pipelines import commands
        from pipelines.execution import RunOptions

        commands.stage(name, run, RunOptions(force, not no_tracking))

    return command


def _instruct(
    run: Run,
    force: Force = False,
    no_tracking: NoTracking = False,
    show: Annotated[
        int | None, typer.Option("--show", min=1, help="Show N examples of every task instead.", metavar="N")
    ] = None,
) -> None:
    from pipelines import commands
    from pipelines.execution import RunOptions

    if show is None:
        commands.stage("instruct", run, RunOptions(force, not no_tracking))
    else:
        commands.show_instructions(run, show)


def _finetune(run: Run, force: Force = False, no_tracking: NoTracking = False, processes: Processes = 1) -> None:
    from pipelines import commands
    from pipelines.execution import RunOptions

    commands.stage("finetune", run, RunOptions(force, not no_tracking, processes=processes))


_OWN_OPTIONS: dict[str, Callable[..., None]] = {"instruct": _instruct, "finetune": _finetune}
for _stage in STAGES:
    _command = _OWN_OPTIONS.get(_stage.name) or _stage_command(_stage.name)
    app.command(_stage.name, help=_stage.help, rich_help_panel=STAGE_PANEL)(_command)


app.add_typer(serving_cli.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with 0 (success), 2 (an error the user can correct) or 130 (interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    # Their progress bars would break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app([argument for argument in given if argument != "--debug"], prog_name="recsys", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except UsageError as error:
        code = _fail(f"error: {error.format_message()} (see recsys --help)", 2)
    except (RecsysError, OSError) as error:
        if debug:
            raise
        code = _fail(f"error: {' '.join(str(error).split())}", 2)
    if code == INTERRUPTED:
        _fail("interrupted; run the same command to resume", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> int:
    sys.stderr.write(f"{line}\n")
    return code
