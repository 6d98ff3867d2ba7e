"""The base of every configuration model, and look-up of names in registries."""

import difflib
from collections.abc import Iterable, Mapping
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
        raise ConfigError(f"{key}: got '{name}'{nearest(name, registry) or ';'} allowed: {', '.join(registry)}")
    return registry[name]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` with the known name closest to `word`; empty if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
