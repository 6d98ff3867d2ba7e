"""The prompt templates of every task, from templates.yaml."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import NamedTuple

import yaml

Part = tuple[str, str]  # ("text", words) or ("field", name)
_FIELD = re.compile(r"\{(history|item|text|titles)\}")


class Template(NamedTuple):
    """A prompt and a response, each a sequence of literal texts and fields."""

    prompt: tuple[Part, ...]
    response: tuple[Part, ...]


def parse(text: str) -> tuple[Part, ...]:
    """Split a template's text at its fields: "a {item} b" -> (text "a "), (field "item"), (text " b")."""
    pieces = _FIELD.split(text)
    return tuple(("field" if i % 2 else "text", piece) for i, piece in enumerate(pieces) if piece)


@cache
def load_templates() -> dict[str, tuple[Template, ...]]:
    """Task name -> its templates."""
    raw = yaml.safe_load(resources.files(__package__).joinpath("templates.yaml").read_text("utf-8"))
    return {task: tuple(Template(parse(t["prompt"]), parse(t["response"])) for t in rows) for task, rows in raw.items()}
