"""URIs of registered models: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

Parses names only; `serving.release.registry`, which is slow to import, resolves them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from recsys.errors import ConfigError

_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


class ModelUri(NamedTuple):
    """A registered model by alias or by version; the other is None."""

    name: str
    alias: str | None
    version: str | None


def is_model_uri(source: str) -> bool:
    """Whether a source names a registered model rather than a folder."""
    return source.startswith("models:/")


def parse_model_uri(source: str) -> ModelUri:
    """The name and the alias or version of a model URI.

    Raises:
        ConfigError: it is of another form.
    """
    match = _REGISTERED.fullmatch(source)
    if match is None:
        raise ConfigError(f"{source!r} is no model URI; write models:/NAME@ALIAS or models:/NAME/VERSION")
    return ModelUri(*match.groups())
