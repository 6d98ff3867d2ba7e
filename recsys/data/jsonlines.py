"""Lines of JSON objects from plain or gzipped files, with the bad ones named.

Reads *.json, *.jsonl and their .gz; some releases write Python literals instead of JSON, which are read too.
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
    """An object and the number of its line, from 1."""

    number: int
    value: dict[str, Any]


def read_lines(path: Path, *, rejects: Rejects) -> Iterator[Line]:
    """Yield the objects of a file; lines that hold none go to `rejects`, empty ones are skipped.

    Raises:
        DataError: the file is cut off or no gzip file in spite of its name.
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
        raise DataError(f"{path} breaks off after line {number} ({error}); fetch it again") from error


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
