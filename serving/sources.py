"""Where a served bundle comes from: a folder, or a registered model `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

Reads names and the environment only; `serving.registry` does the rest, and is slow to import.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from recsys.errors import ConfigError

SQLITE, STORE = "sqlite:///", "mlflow.db"
_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


class Registered(NamedTuple):
    """A registered model by alias or by version; the other one is None."""

    name: str
    alias: str | None
    version: str | None


def is_registered(source: str) -> bool:
    """Whether a source names a registered model rather than a folder."""
    return source.startswith("models:/")


def registered(source: str) -> Registered:
    """The parts of a registered model's name.

    Raises:
        ConfigError: it is of another form.
    """
    match = _REGISTERED.fullmatch(source)
    if match is None:
        raise ConfigError(f"{source!r} names no registered model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    return Registered(*match.groups())


def tracking_uri(given: str | None, *, home: Path) -> str:
    """The registry to use, by an absolute URI: the one given, that of the environment, or `mlflow.db` in `home`.

    Raises:
        ConfigError: it is no URI.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home.absolute() / STORE}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    if "://" not in uri and uri != "databricks":
        raise ConfigError(f"registry {uri!r} is no URI; give one such as sqlite:///runs/mlflow.db or https://host")
    return uri


def database(uri: str) -> Path | None:
    """The file behind a local registry; None where it is a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
