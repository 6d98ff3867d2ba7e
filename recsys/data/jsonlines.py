"""JSON lines from plain or gzipped files; malformed lines are rejected one by one.

Reads *.json, *.jsonl and their .gz; also lines of Python literals, which some releases use instead of JSON.
"""

from __future__ import annotations

import ast
import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from recsys.data.raw import Rejects
from recsys.errors import DataError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class Line(NamedTuple):
    """An object and its line number, from 1."""

    number: int
    value: dict[str, Any]


def read_lines(path: Path, *, rejects: Rejects) -> Iterator[Line]:
    """Yield the objects of a file; other lines go to `rejects`, empty ones are skipped.

    Raises:
        DataError: the file is truncated, or not gzipped in spite of its name.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                value = parse_object(raw)
                if value is None:
                    rejects.add(path, number, "malformed JSON", raw.decode("utf-8", errors="replace").strip())
                else:
                    yield Line(number, value)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated after line {number} ({error}); download it again") from error


def parse_object(raw: bytes) -> dict[str, Any] | None:
    """A JSON object or a Python literal of a dict; None for anything else."""
    try:
        value = json.loads(raw)
    except ValueError:
        value = _literal(raw)
    return value if isinstance(value, dict) else None


def _literal(raw: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # the texts hold stray backslashes
            return ast.literal_eval(raw.decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
