"""Where a served bundle comes from: a folder, or a registered model `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

Reads names only; `serving.release.registry` does the rest, and is slow to import.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from recsys.errors import ConfigError

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
