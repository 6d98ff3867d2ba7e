"""Item ids on the command line: the values of `--history`, and how to write a history so that a shell passes it on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from recsys.errors import ConfigError


def parse_history(values: Sequence[str]) -> tuple[str, ...]:
    """The ids of all values in order; each is a JSON list, or ids with commas between them and any space around.

    Raises:
        ConfigError: a value begins as a list but is no JSON list of ids.
    """
    ids: list[str] = []
    for value in values:
        if value.lstrip().startswith("["):
            ids += _listed(value)
        else:
            ids += [item.strip() for item in value.split(",") if item.strip()]
    return tuple(ids)


def history_option(item_ids: Sequence[str]) -> str:
    """`--history IDS` for a shell, as a JSON list where commas would not do."""
    text = ",".join(item_ids)
    is_plain = text.isprintable() and not text.startswith(("-", "[")) and parse_history([text]) == tuple(item_ids)
    return f"--history {shlex.quote(text if is_plain else json.dumps(list(item_ids)))}"


def user_option(user_id: str) -> str:
    """`--user ID` for a shell; with an equals sign where the id could be taken for an option."""
    return f"--user{'=' if user_id.startswith('-') else ' '}{shlex.quote(user_id)}"


def _listed(value: str) -> list[str]:
    try:
        listed = json.loads(value)
    except ValueError:
        listed = None
    # Ids of a table may be integers; true and false are integers to Python.
    if not isinstance(listed, list) or not all(isinstance(i, (str, int)) and not isinstance(i, bool) for i in listed):
        raise ConfigError(
            f'--history: got {value[:100]!r}, which begins as a JSON list; write one as \'["a, b", "c"]\', '
            "also for an id that begins with '['"
        )
    return [str(item) for item in listed]
