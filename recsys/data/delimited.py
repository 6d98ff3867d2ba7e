"""Reads a damaged csv row by row; unreadable rows are rejected one by one.

Much slower than polars; used only for files that polars refuses.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from recsys.data.raw import Rejects
from recsys.errors import DataError


def salvage_csv(path: Path, row_column: str, *, rejects: Rejects) -> pl.DataFrame:
    """The readable rows, every column String; `row_column` holds each row's line number in the file.

    A row of too many fields, or with bytes that are no UTF-8, goes to `rejects`; missing fields at its end are null.

    Raises:
        DataError: the file has no header, or a quote opens that never closes.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns: list[list[str | None]] = [[] for _ in header]
        lines: list[int] = []
        for line, fields in _records(path, reader):
            reason = _rejection(fields, len(header))
            if reason:
                rejects.add(path, line, reason, _printable(",".join(fields)))
                continue
            lines.append(line)
            for column, value in zip(columns, [*fields, *[None] * (len(header) - len(fields))], strict=True):
                column.append(value)
    values = dict(zip(map(_printable, header), columns, strict=True))
    return pl.DataFrame(
        {row_column: lines, **values}, schema={row_column: pl.UInt32, **dict.fromkeys(values, pl.String)}
    )


def _records(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Starting line number and fields of each record; empty lines are skipped."""
    line = 2
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1  # type: ignore[attr-defined]
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not valid csv ({error}); correct the quotes there") from error


def _rejection(fields: list[str], width: int) -> str | None:
    if len(fields) > width:
        return "too many fields"
    if any("\udc80" <= character <= "\udcff" for field in fields for character in field):
        return "not UTF-8"
    return None


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
