"""Item columns as text: lists are joined, paths written `A > B > C`, markup removed, empty texts null.

Several paths of one item are separated by "; ".
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

PATH, PATHS, LIST = " > ", "; ", ", "
PATH_COLUMNS = ("category", "categories")
_SPACES = r"[\p{Z}\t\r\n]+"
# Control, private-use and unassigned characters, and format characters but joiners, which scripts and emoji need.
_INVISIBLE = (
    r"[\p{Cc}\p{Co}\p{Cn}\x{61c}\x{200b}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}-\x{206f}\x{feff}\x{e0000}-\x{e007f}]"
)
_MARKUP = re.compile(r"<[^>]*>")


class TextTable(NamedTuple):
    """Items with text columns, one row an item_id; names of the ignored columns; number of repeated rows dropped."""

    frame: pl.DataFrame
    ignored: list[str]
    repeated: int


def text_table(frame: pl.DataFrame, item_column: str) -> TextTable:
    """Convert a table to catalogue columns: ids and texts as strings, the first row of each id.

    Numbers and dates become text; structs, vectors and binary columns are ignored. Rows must have an id.
    """
    others = [name for name in frame.columns if name != item_column]
    kept = [name for name in others if _is_text(frame.schema[name])]
    columns = [identifier(item_column, frame.schema[item_column]).alias("item_id")]
    free = {"item_id": "item_id_text"}  # a text column of this name, where another one holds the ids
    columns += [_text(name, frame.schema[name]).alias(free.get(name, name)) for name in kept]
    table = frame.select(columns)
    unique = table.unique("item_id", keep="first", maintain_order=True)
    return TextTable(unique, [name for name in others if name not in kept], table.height - unique.height)


def identifier(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column of ids as strings; null where empty. Floats (from integers with missing values) become integers."""
    if dtype.is_float():
        return pl.col(column).cast(pl.Int64, strict=False).cast(pl.String)
    return _filled(pl.col(column).cast(pl.String))


def join_texts(value: Any, *, path: bool) -> str | None:
    """A JSON value as text: a list of lists as paths, a list as one path or an enumeration."""
    if isinstance(value, list):
        if any(isinstance(part, list) for part in value):
            joined = PATHS.join(filter(None, (join_texts(part, path=path) for part in value)))
        else:
            parts = [str(part).strip() for part in value if part is not None]
            joined = _separator(parts, path=path).join(filter(None, parts))
    else:
        joined = "" if value is None or isinstance(value, dict) else str(value).strip()
    return joined or None


def strip_markup(text: str | None) -> str | None:
    """Text without HTML tags and entities, whitespace collapsed; None if empty."""
    if text is None:
        return None
    return " ".join(html.unescape(_MARKUP.sub(" ", text)).split()) or None


def clean(text: pl.Expr, *, longest: int) -> pl.Expr:
    """Text that is safe to display: NFKC, no control or bidirectional characters, whitespace collapsed, truncated.

    For texts in responses of an endpoint: such characters can spoof a page or a log. Null if empty.
    """
    kept = text.str.normalize("NFKC").str.replace_all(_SPACES, " ").str.replace_all(_INVISIBLE, "")
    return _filled(kept.str.slice(0, longest))


def _separator(parts: Sequence[str], *, path: bool) -> str:
    if any(PATH in part for part in parts):
        return PATHS
    return PATH if path else LIST


def _is_text(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        inner = dtype.inner.inner if isinstance(dtype.inner, pl.List) else dtype.inner
        return inner == pl.String
    return not (dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Null))


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        path = name.lower() in PATH_COLUMNS
        return column.map_elements(
            lambda value: join_texts(value.to_list(), path=path), return_dtype=pl.String, skip_nulls=True
        )
    return _filled(column.cast(pl.String))


def _filled(text: pl.Expr) -> pl.Expr:
    stripped = text.str.strip_chars()
    return pl.when(stripped != "").then(stripped)
