"""The command line: its surface only; `pipelines.commands` does the work and is imported when a command runs.

`recsys --help` therefore answers without loading torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
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
STAGE_PANEL, SERVING_PANEL = "One stage of a run", "Serving"

Name = Annotated[str, typer.Option("--name", help="The registered model.")]
Alias = Annotated[str, typer.Option("--alias", help="What names the version in use.")]
Registry = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--registry",
        help="MLflow's store; by default MLFLOW_TRACKING_URI, or mlflow.db beside the runs.",
        metavar="URI",
    ),
]
KeysFile = Annotated[Path, typer.Option("--keys", help="The file of hashed keys.", metavar="FILE")]
KeyName = Annotated[str, typer.Option("--name", help="What the key is called.")]
LOCAL, STORE = "127.0.0.1", "sqlite:///histories.sqlite"  # the defaults of serving.config.ServeConfig


class ExecutorKind(StrEnum):
    """Where partitions are computed; `pipelines.executors.KINDS`."""

    LOCAL = "local"
    RAY = "ray"


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
    executor: Annotated[
        ExecutorKind, typer.Option("--executor", help="Where stages that can be spread compute.")
    ] = ExecutorKind.LOCAL,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--workers", min=1, help="Processes of it.", show_default="1, with Ray one a core"),
    ] = None,
    force: Force = False,
    no_tracking: NoTracking = False,
) -> None:
    """Run all stages; what is current is skipped, what was interrupted is resumed."""
    from pipelines import commands

    choices = commands.Choices(force, not no_tracking, executor.value, workers)
    commands.run(config, settings or [], out=out, first=first, last=last, choices=choices)


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


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished run directories.")],
    metric: Annotated[str, typer.Option("--metric", help="What is compared: ndcg@10, hr@5, ...")] = "ndcg@10",
) -> None:
    """Show a metric of several runs side by side, such as the same training under other seeds."""
    from pipelines import commands

    commands.compare(runs, metric)


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
        commands.stage("recommend", directory, commands.Choices(force, not no_tracking))
    else:
        commands.recommend(directory, [part.strip() for part in history.split(",") if part.strip()], k=k)


def _stage_command(name: str) -> Callable[[Path, bool, bool], None]:
    def command(directory: Run, force: Force = False, no_tracking: NoTracking = False) -> None:
        from pipelines import commands

        commands.stage(name, directory, commands.Choices(force, not no_tracking))

    return command


for _stage in STAGES:
    _command = recommend if _stage.name == "recommend" else _stage_command(_stage.name)
    app.command(_stage.name, help=_stage.help, rich_help_panel=STAGE_PANEL)(_command)


@app.command(rich_help_panel=SERVING_PANEL)
def bundle(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The bundle's folder, which must be new.", metavar="DIR")],
) -> None:
    """Make one immutable folder of everything that serving needs of a run; no user is in it."""
    from pipelines import serving_commands

    serving_commands.bundle(run, out)


@app.command(rich_help_panel=SERVING_PANEL)
def publish(
    source: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A finished run, or a bundle.")],
    *,
    name: Name = "recsys",
    alias: Alias = "champion",
    registry: Registry = None,
    force: Annotated[bool, typer.Option("--force", help="Publish also what does not pass the gates.")] = False,
) -> None:
    """Register a bundle in MLflow and move an alias to it, if it is no worse and answers as it should."""
    from pipelines import serving_commands

    serving_commands.publish(source, name=name, alias=alias, registry=registry, force=force)


@app.command(rich_help_panel=SERVING_PANEL)
def rollback(*, name: Name = "recsys", alias: Alias = "champion", registry: Registry = None) -> None:
    """Move an alias back to the version that it named before."""
    from pipelines import serving_commands

    serving_commands.rollback(name=name, alias=alias, registry=registry)


@app.command(rich_help_panel=SERVING_PANEL)
def serve(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A bundle, a finished run, models:/NAME@ALIAS or models:/NAME/VERSION."),
    ],
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond loopback keys are needed.")] = LOCAL,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    keys: Annotated[Optional[Path], typer.Option("--keys", help="File of API keys.", metavar="FILE")] = None,  # noqa: UP045
    store: Annotated[
        str, typer.Option("--store", help="Users' histories: sqlite:///PATH, redis://HOST:PORT/DB.", metavar="URL")
    ] = STORE,
    registry: Registry = None,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--set", help="One setting more: key=, runtime.key= or ray.key=. Repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On Ray Serve: replicas, and updates that lose nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only see whether the bundle answers as it should.")] = False,
) -> None:
    """Answer requests over HTTP until stopped; SIGTERM finishes what is in flight."""
    # Threads of OpenMP that spin while they wait would starve the event loop; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines import serving_commands

    options = {"host": host, "port": port, "keys": keys, "store": store}
    choices = serving_commands.ServeChoices(registry, check, ray)
    serving_commands.serve(source, options=options, settings=settings or [], choices=choices)


keys_app = typer.Typer(help="Make, list and revoke the API keys of an endpoint.", no_args_is_help=True)
app.add_typer(keys_app, name="keys", rich_help_panel=SERVING_PANEL)


@keys_app.command("create")
def keys_create(
    *,
    keys: KeysFile,
    name: KeyName,
    scope: Annotated[str, typer.Option("--scope", help="read, or admin, which may do all.")] = "read",
) -> None:
    """Make a key and show it, once."""
    from pipelines import serving_commands

    serving_commands.keys_create(keys, name=name, scope=scope)


@keys_app.command("list")
def keys_list(*, keys: KeysFile) -> None:
    """List the keys' names; the keys themselves are not kept."""
    from pipelines import serving_commands

    serving_commands.keys_list(keys)


@keys_app.command("revoke")
def keys_revoke(*, keys: KeysFile, name: KeyName) -> None:
    """Take a key out of use."""
    from pipelines import serving_commands

    serving_commands.keys_revoke(keys, name=name)


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
