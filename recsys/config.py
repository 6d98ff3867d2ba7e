"""The base of every configuration model, and look-up of names in registries."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from recsys.errors import ConfigError

T = TypeVar("T")


class Config(BaseModel):
    """A frozen configuration; an unknown key is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def lookup(registry: Mapping[str, T], name: str, *, key: str) -> T:
    """The entry of a registry that a configuration key names.

    Raises:
        ConfigError: there is no such entry.
    """
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(f"{key}: got '{name}'; {hint}allowed: {', '.join(registry)}")
    return registry[name]
