"""The command line: its surface only; `pipelines.commands` does the work and is imported when a command runs.

`recsys --help` therefore answers without loading torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from pipelines import STAGES
from recsys.errors import RecsysError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Generative recommendation: interactions and a catalogue in, recommendations a language model writes out.\n\n"
    "Start with [bold]recsys run --config demo[/bold]. The stages, in order: "
    + ", ".join(stage.name for stage in STAGES)
    + ".",
)

Run = Annotated[Path, typer.Option("--run", help="The run directory.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Run also what is current.")]
NoTracking = Annotated[bool, typer.Option("--no-tracking", help="Record nothing in MLflow.")]
INTERRUPTED = 130
# New versions of typer carry a copy of click of their own; what it raises for every wrong usage is this base.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]
STAGE_PANEL = "One stage of a run"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")] = False,
) -> None:
    # `main` takes --debug out wherever it stands; here it is only declared, for the help.
    pass


@app.command()
def run(
    *,
    config: Annotated[str, typer.Option("--config", help="A recipe's name, or a path to a YAML file.")],
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="Override one key: section.key=value. Repeatable.", metavar="KEY=VALUE"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="The run directory. An existing one is resumed.", show_default="runs/CONFIG"),
    ] = None,
    first: Annotated[str, typer.Option("--from", help="First stage to run.", metavar="STAGE")] = STAGES[0].name,
    last: Annotated[str, typer.Option("--to", help="Last stage to run.", metavar="STAGE")] = STAGES[-1].name,
    force: Force = False,
    no_tracking: NoTracking = False,
) -> None:
    """Run all stages; what is current is skipped, what was interrupted is resumed."""
    from pipelines import commands

    commands.run(config, settings or [], out=out, first=first, last=last, force=force, tracking=not no_tracking)


@app.command()
def configs() -> None:
    """List the recipes."""
    from pipelines import commands

    commands.configs()


@app.command()
def status(directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")]) -> None:
    """Show the stages of a run: what is current, what is stale or missing, and why."""
    from pipelines import commands

    commands.status(directory)


def recommend(
    directory: Run,
    history: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--history", help="Answer one query: item ids, oldest first.", metavar="ID,ID,..."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many recommendations to show.")] = 10,
    force: Force = False,
    no_tracking: NoTracking = False,
) -> None:
    from pipelines import commands

    if history is None:
        commands.stage("recommend", directory, force=force, tracking=not no_tracking)
    else:
        commands.recommend(directory, [part.strip() for part in history.split(",") if part.strip()], k=k)


def _stage_command(name: str) -> Callable[[Path, bool, bool], None]:
    def command(directory: Run, force: Force = False, no_tracking: NoTracking = False) -> None:
        from pipelines import commands

        commands.stage(name, directory, force=force, tracking=not no_tracking)

    return command


for _stage in STAGES:
    _command = recommend if _stage.name == "recommend" else _stage_command(_stage.name)
    app.command(_stage.name, help=_stage.help, rich_help_panel=STAGE_PANEL)(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 an error the user can act on, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    # The bars of transformers would break into ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app([argument for argument in given if argument != "--debug"], prog_name="recsys", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except UsageError as error:
        code = _say(f"error: {error.format_message()} (recsys --help shows what is there)", 2)
    except (RecsysError, OSError) as error:
        if debug:
            raise
        code = _say(f"error: {' '.join(str(error).split())}", 2)
    if code == INTERRUPTED:
        _say("interrupted; run the same command to resume", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _say(line: str, code: int) -> int:
    sys.stderr.write(f"{line}\n")
    return code
