"""Columns of items as text: lists are joined, paths are written `A > B > C`, markup goes, what is empty is null.

Several paths of one item are separated by "; ". Reads and writes nothing.
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
# Control, private and unassigned characters, and of the format ones all but the joiners that scripts and emoji need.
_UNSEEN = (
    r"[\p{Cc}\p{Co}\p{Cn}\x{61c}\x{200b}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}-\x{206f}\x{feff}\x{e0000}-\x{e007f}]"
)
_MARKUP = re.compile(r"<[^>]*>")


class TextTable(NamedTuple):
    """Items with text columns only, one row an item_id; the names of the columns left out; repeated rows left out."""

    frame: pl.DataFrame
    ignored: list[str]
    repeated: int


def text_table(frame: pl.DataFrame, item_column: str) -> TextTable:
    """Turn a table of any columns into a catalogue's: ids and texts as strings, the first row of each id.

    Numbers and dates become text; structs, vectors and binary columns are left out and named. Rows without id must
    have been removed before.
    """
    others = [name for name in frame.columns if name != item_column]
    kept = [name for name in others if _is_text(frame.schema[name])]
    columns = [identifier(item_column, frame.schema[item_column]).alias("item_id")]
    columns += [_text(name, frame.schema[name]).alias(_free(name)) for name in kept]
    table = frame.select(columns)
    unique = table.unique("item_id", keep="first", maintain_order=True)
    return TextTable(unique, [name for name in others if name not in kept], table.height - unique.height)


def identifier(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column of ids as strings; null where there is none. Whole floats (a missing integer's neighbours) lose '.0'."""
    if dtype.is_float():
        return pl.col(column).cast(pl.Int64, strict=False).cast(pl.String)
    return _filled(pl.col(column).cast(pl.String))


def join_texts(value: Any, *, path: bool) -> str | None:
    """A JSON value as text: a list of lists as paths, a list as one path or an enumeration, a number as it is."""
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
    """Text without HTML tags and entities, its white space folded; None where nothing is left."""
    if text is None:
        return None
    return " ".join(html.unescape(_MARKUP.sub(" ", text)).split()) or None


def clean(text: pl.Expr, *, longest: int) -> pl.Expr:
    """Text that is safe to show: NFKC, no control or direction characters, white space folded, cut; null if empty.

    For what leaves through an endpoint; the characters taken out can make a page or a log read as something else.
    """
    kept = text.str.normalize("NFKC").str.replace_all(_SPACES, " ").str.replace_all(_UNSEEN, "")
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


def _free(name: str) -> str:
    """A column of texts cannot be called item_id where the ids lie in another column."""
    return "item_id_text" if name == "item_id" else name
