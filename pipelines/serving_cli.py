"""The commands about serving: names, options and help texts. `pipelines.serving_commands` does the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipelines.options import Run, Settings

app = typer.Typer()
SERVING_PANEL = "Serving"

Name = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
Alias = Annotated[str, typer.Option("--alias", help="Alias of the version in use.")]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry", help="MLflow tracking URI. Default: MLFLOW_TRACKING_URI, or runs/mlflow.db.", metavar="URI"
    ),
]
KeysFile = Annotated[Path, typer.Option("--keys", help="File of hashed API keys.", metavar="FILE")]
KeyName = Annotated[str, typer.Option("--name", help="Name of the key.")]
LOCAL, STORE = "127.0.0.1", "sqlite:///histories.sqlite"  # the defaults of serving.config.ServeConfig


@app.command(rich_help_panel=SERVING_PANEL)
def bundle(
    run: Run,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.", metavar="DIR")],
) -> None:
    """Write everything that serving needs into one immutable folder, without user data."""
    from pipelines import serving_commands

    serving_commands.bundle(run, out)


@app.command(rich_help_panel=SERVING_PANEL)
def publish(
    source: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A finished run or a bundle.")],
    *,
    name: Name = "recsys",
    alias: Alias = "champion",
    registry: Registry = None,
    skip_gates: Annotated[bool, typer.Option("--skip-gates", help="Publish even if a check fails.")] = False,
) -> None:
    """Register a bundle in MLflow and move an alias to it, if its metrics and golden requests pass."""
    from pipelines import serving_commands

    serving_commands.publish(source, name=name, alias=alias, registry=registry, skip_gates=skip_gates)


@app.command(rich_help_panel=SERVING_PANEL)
def rollback(*, name: Name = "recsys", alias: Alias = "champion", registry: Registry = None) -> None:
    """Move an alias back to the previous version."""
    from pipelines import serving_commands

    serving_commands.rollback(name=name, alias=alias, registry=registry)


@app.command(rich_help_panel=SERVING_PANEL)
def serve(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A bundle, a finished run, models:/NAME@ALIAS or models:/NAME/VERSION."),
    ],
    *,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; other than loopback needs --keys.")
    ] = LOCAL,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option("--keys", help="File of hashed API keys.", metavar="FILE")] = None,
    store: Annotated[
        str, typer.Option("--store", help="User histories: sqlite:///PATH or redis://HOST:PORT/DB.", metavar="URL")
    ] = STORE,
    registry: Registry = None,
    settings: Settings = None,
    ray: Annotated[bool, typer.Option("--ray", help="Serve from replicas on Ray Serve.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only replay the bundle's golden requests, then exit.")
    ] = False,
) -> None:
    """Serve recommendations over HTTP until stopped; SIGTERM finishes the requests in flight.

    The sections of --set are serve, runtime and ray.
    """
    # OpenMP threads that spin while idle would starve the event loop. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines import serving_commands

    options = {"host": host, "port": port, "keys": keys, "store": store}
    serving_commands.serve(source, settings=settings or [], options=options, registry=registry, check=check, ray=ray)


@app.command(rich_help_panel=SERVING_PANEL)
def histories(
    run: Run,
    *,
    store: Annotated[
        str, typer.Option("--store", help="The endpoint's: sqlite:///PATH or redis://HOST:PORT/DB.", metavar="URL")
    ] = STORE,
) -> None:
    """Copy the histories of a run's users into the store of an endpoint, for requests by user_id.

    Users who have a history there keep it.
    """
    from pipelines import serving_commands

    serving_commands.histories(run, store)


keys_app = typer.Typer(help="Create, list and revoke the API keys of an endpoint.", no_args_is_help=True)
app.add_typer(keys_app, name="keys", rich_help_panel=SERVING_PANEL)


@keys_app.command("create")
def keys_create(
    *,
    keys: KeysFile,
    name: KeyName,
    scope: Annotated[str, typer.Option("--scope", help="read or admin; admin includes read.")] = "read",
) -> None:
    """Create a key and print it; it is shown only once."""
    from pipelines import serving_commands

    serving_commands.keys_create(keys, name=name, scope=scope)


@keys_app.command("list")
def keys_list(*, keys: KeysFile) -> None:
    """List names and scopes of the keys."""
    from pipelines import serving_commands

    serving_commands.keys_list(keys)


@keys_app.command("revoke")
def keys_revoke(*, keys: KeysFile, name: KeyName) -> None:
    """Revoke a key."""
    from pipelines import serving_commands

    serving_commands.keys_revoke(keys, name=name)
