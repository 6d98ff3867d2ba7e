"""Delimited text: how a file is written (separator, header, encoding, packing), and damaged files row by row.

Reading row by row is much slower than polars, and used only for files that polars refuses.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Literal, NamedTuple

import polars as pl
import pyarrow as pa

from recsys.data.raw import Rejects
from recsys.errors import ConfigError, DataError

SEPARATORS = (",", "\t", ";", "|")
SEPARATOR_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
UNQUOTED = (".inter", ".item", ".user")  # RecBole writes texts as they are, with their quotes
_SNIFFED = 1 << 16
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_READ_BY_POLARS = (".gz", ".zst")
_EXCEL_LINE = re.compile(r"^sep=(.)$")
_ATOMIC_TYPE = re.compile(r":(?:token|token_seq|float|float_seq)$")


class Layout(NamedTuple):
    """What is known of a text file beforehand.

    `separator` is found by the header where None; `columns` are the names of a file without header; `expected` are
    columns that a header should have.
    """

    separator: str | None = None
    columns: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()


class TextForm(NamedTuple):
    """How a text file is written; `names` are its columns, `skipped` the lines before the header or the first row."""

    separator: str
    names: tuple[str, ...]
    has_header: bool
    skipped: int
    encoding: str
    quoted: bool

    @property
    def first_row(self) -> int:
        """Number of the first row in the file, from 1."""
        return self.skipped + 1 + self.has_header


def text_form(path: Path, layout: Layout) -> TextForm:
    """The form of a text file, from its first lines.

    Raises:
        DataError: it is empty, or cannot be unpacked.
        ConfigError: `layout.separator` is no single character.
    """
    start, last = _start(path)
    encoding = "utf-16" if start[:2] in _UTF16 else "utf-8-sig"
    lines = start.decode(encoding, errors="replace").splitlines()
    if not lines or (last and not "".join(lines).strip()):
        raise DataError(f"{path} is empty; a header line and rows are needed")
    excel = _EXCEL_LINE.match(lines[0])
    quoted = not any(suffix in UNQUOTED for suffix in path.suffixes)
    first = lines[1] if excel and len(lines) > 1 else lines[0]
    separator = SEPARATOR_NAMES.get(layout.separator or "", layout.separator) or (excel and excel[1])
    separator = separator or _separator(first, layout, quoted=quoted)
    if len(separator.encode()) != 1:
        raise ConfigError(f"prepare.separator={separator!r} must be one character, or {', '.join(SEPARATOR_NAMES)}")
    fields = _fields(first, separator, quoted=quoted)
    names = layout.columns or _column_names(fields)
    if layout.columns and len(fields) != len(names):
        raise ConfigError(
            f"{path}: the first line has {len(fields)} fields at the separator {separator!r}, and {len(names)} names "
            f"are given ({', '.join(names)}); name every column of the file, in order"
        )
    return TextForm(separator, tuple(names), not layout.columns, int(bool(excel)), encoding, quoted)


def scan_text(path: Path, form: TextForm, row_column: str) -> pl.LazyFrame:
    """A lazy table of strings; `row_column` holds each row's number in the file.

    Raises:
        DataError: the file cannot be unpacked.
    """
    native = form.encoding != "utf-16" and (not _packed(path) or path.suffix.lower() in _READ_BY_POLARS)
    try:
        with open_bytes(path) as file:
            source = path if native else file.read()
    except (OSError, EOFError) as error:
        raise unreadable(path, error) from error
    if isinstance(source, bytes) and form.encoding == "utf-16":
        source = source.decode("utf-16", errors="replace").encode()
    return pl.scan_csv(
        source,
        separator=form.separator,
        has_header=form.has_header,
        new_columns=list(form.names),
        skip_lines=form.skipped,
        quote_char='"' if form.quoted else None,
        infer_schema=False,
    ).with_row_index(row_column, offset=form.first_row)


def salvage_text(path: Path, form: TextForm, row_column: str, *, name: str, rejects: Rejects) -> pl.DataFrame:
    """The readable rows, every column String; `row_column` holds each row's line number in the file.

    A row of too many fields, or with bytes that are no text, goes to `rejects` as one of the file `name`; missing
    fields at its end are null.

    Raises:
        DataError: a quote opens that never closes, or the file is cut off.
    """
    width = len(form.names)
    columns: list[list[str | None]] = [[] for _ in range(width)]
    lines: list[int] = []
    errors = "replace" if form.encoding == "utf-16" else "surrogateescape"
    with open_bytes(path) as raw, io.TextIOWrapper(raw, form.encoding, errors, newline="") as file:
        for line, fields in _records(path, file, form):
            reason = _rejection(fields, width)
            if reason:
                rejects.add(name, line, reason, _printable(form.separator.join(fields)))
                continue
            lines.append(line)
            for column, value in zip(columns, [*fields, *[None] * (width - len(fields))], strict=True):
                column.append(value)
    values: Mapping[str, list[str | None]] = dict(zip(form.names, columns, strict=True))
    return pl.DataFrame(
        {row_column: lines, **values}, schema={row_column: pl.UInt32, **dict.fromkeys(values, pl.String)}
    )


def open_bytes(path: Path) -> IO[bytes]:
    """The contents of a file, unpacked as its suffix says (.gz, .zst, .bz2, or .zip of one file).

    Raises:
        DataError: it is no such file, or a zip of several.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.namelist() if not m.endswith("/") and not Path(m).name.startswith(".")]
                if len(members) != 1:
                    raise DataError(f"{path} holds {len(members)} files; a zip of one table holds one")
                return archive.open(members[0])
        stream: IO[bytes] = pa.input_stream(str(path), compression="detect")
        return stream
    except (OSError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The refusal of a file that is cut off, or not packed as its name says."""
    return DataError(f"{path} is cut off or damaged ({str(error).splitlines()[0]}); write or download it again")


def _packed(path: Path) -> bool:
    return path.suffix.lower() in (".gz", ".zst", ".bz2", ".zip")


def _start(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked, and whether they are all of it."""
    try:
        with open_bytes(path) as file:
            start = file.read(_SNIFFED)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    return start, len(start) < _SNIFFED


def _separator(line: str, layout: Layout, *, quoted: bool) -> str:
    """The separator at which the line has the most of the expected columns, then the most fields."""

    def fit(separator: str) -> tuple[int, int]:
        fields = _fields(line, separator, quoted=quoted)
        if layout.columns:
            return int(len(fields) == len(layout.columns)), len(fields)
        return len(set(layout.expected) & set(_column_names(fields))), len(fields)

    return max(SEPARATORS, key=fit)


def _fields(line: str, separator: str, *, quoted: bool) -> list[str]:
    return next(csv.reader([line], delimiter=separator, quoting=_quoting(quoted)), [])


def _column_names(fields: list[str]) -> list[str]:
    """Names without the white space around them, nor RecBole's types (`item_id:token`) where all have one."""
    names = [field.strip() for field in fields]
    if all(_ATOMIC_TYPE.search(name) for name in names):
        names = [_ATOMIC_TYPE.sub("", name) for name in names]
    repeated = {name for name in names if names.count(name) > 1}
    return [f"{name}_{number}" if name in repeated or not name else name for number, name in enumerate(names, 1)]


def _records(path: Path, file: io.TextIOWrapper, form: TextForm) -> Iterator[tuple[int, list[str]]]:
    """Starting line number and fields of each record; those of an empty line are none."""
    lines: list[str] = []  # of the current record

    def remembered() -> Iterator[str]:
        for text in file:
            lines.append(text)
            yield text

    line = 1
    try:
        for fields in csv.reader(remembered(), delimiter=form.separator, quoting=_quoting(form.quoted)):
            if len(lines) > 1:  # refuses a quote that takes the rows after it into its field
                list(csv.reader(lines, delimiter=form.separator, strict=True))
            if line >= form.first_row:
                yield line, fields
            line += len(lines)
            lines.clear()
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not valid csv ({error}); correct the quotes there") from error
    except (OSError, EOFError) as error:
        raise unreadable(path, error) from error


def _quoting(quoted: bool) -> Literal[0, 3]:
    return csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE


def _rejection(fields: list[str], width: int) -> str | None:
    if len(fields) > width:
        return "too many fields"
    if any("\udc80" <= character <= "\udcff" for field in fields for character in field):
        return "not UTF-8"
    return None


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
