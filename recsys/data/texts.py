"""Item columns as text: lists are joined, paths written `A > B > C`, HTML decoded, empty texts null.

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
TITLE = "title"
_BLOCK_TAGS = (
    "address|article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|figure|footer|form|h[1-6]|head|header|hr|html|"
    "iframe|img|input|li|link|meta|nav|ol|option|p|pre|script|section|select|style|table|tbody|td|tfoot|th|thead|tr|ul|"
    "video"
)
_INLINE_TAGS = (
    "a|abbr|acronym|b|big|cite|code|del|dfn|em|font|i|ins|kbd|label|mark|q|s|small|span|strike|strong|sub|sup|tt|u|"
    "var|wbr"
)
_BLOCK = re.compile(rf"</?(?:{_BLOCK_TAGS})(?:\s[^<>]*|/)?>|<!--.*?-->|<!doctype[^>]*>", re.IGNORECASE | re.DOTALL)
_INLINE = re.compile(rf"</?(?:{_INLINE_TAGS})(?:\s[^<>]*|/)?>", re.IGNORECASE)
_RAISED = re.compile(r"<(sup|sub)>([0-9+-]+)</\1>", re.IGNORECASE)
_SHIFTED = {
    "sup": str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"),
    "sub": str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋"),
}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")


class TextTable(NamedTuple):
    """Items or users with text columns, one row an id; names of ignored columns; number of repeated rows dropped."""

    frame: pl.DataFrame
    ignored: list[str]
    repeated: int


def text_table(
    frame: pl.DataFrame, id_column: str, *, id_name: str = "item_id", title_column: str = TITLE
) -> TextTable:
    """Convert a table to catalogue columns: ids and texts as strings, the first row of each id.

    Numbers and dates become text, HTML in texts is decoded (`strip_markup`); structs, vectors and binary columns are
    ignored. `id_column` (String) has an id in every row and becomes `id_name`, `title_column` becomes `title`.
    """
    others = [name for name in frame.columns if name != id_column]
    kept = [name for name in others if is_text(frame.schema[name])]
    # Text columns of these names, where others are the id and the title.
    names = {
        id_name: f"{id_name}_text",
        **({TITLE: "title_text"} if title_column != TITLE else {}),
        title_column: TITLE,
    }
    columns = [pl.col(id_column).alias(id_name)]
    columns += [_text(name, frame.schema[name]).alias(names.get(name, name)) for name in kept]
    table = frame.select(columns)
    unique = table.unique(id_name, keep="first", maintain_order=True)
    return TextTable(unique, [name for name in others if name not in kept], table.height - unique.height)


def first_text(schema: pl.Schema, names: Sequence[str], *, longest: int) -> pl.Expr:
    """In each row the first text of some columns, decoded and cut; null where they have none."""
    texts = [_text(name, schema[name]) for name in names if is_text(schema[name])]
    return pl.coalesce(*texts, pl.lit(None, pl.String)).str.slice(0, longest)


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
    """Text as a browser shows it: without HTML tags, entities decoded, whitespace collapsed; None if empty.

    Only tags of HTML are removed: `a < b > c` stays. Raised and lowered digits stay so: `10<sup>2</sup>` is `10²`.
    """
    if text is None:
        return None
    if "<" in text:
        text = _RAISED.sub(lambda found: found[2].translate(_SHIFTED[found[1].lower()]), text)
        text = _INLINE.sub("", _BLOCK.sub(" ", text))
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return " ".join(text.split()) or None


def clean(text: pl.Expr, *, longest: int) -> pl.Expr:
    """Text that is safe to display: NFC, no control or bidirectional characters, whitespace collapsed, truncated.

    For texts in responses of an endpoint: such characters can spoof a page or a log. Null if empty. Characters keep
    their meaning: `½`, `²` and `™` stay.
    """
    kept = text.str.normalize("NFC").str.replace_all(_SPACES, " ").str.replace_all(_INVISIBLE, "")
    return _filled(kept.str.slice(0, longest))


def decoded(text: pl.Expr) -> pl.Expr:
    """`strip_markup` of a column of texts; those without any markup are not touched."""
    marked = pl.when(text.str.contains("[<&]")).then(text)
    return pl.coalesce(
        pl.when(marked.is_null()).then(_filled(text)),
        marked.map_elements(strip_markup, return_dtype=pl.String, skip_nulls=True),
    )


def _separator(parts: Sequence[str], *, path: bool) -> str:
    if any(PATH in part for part in parts):
        return PATHS
    return PATH if path else LIST


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column of this type is one of texts; numbers and dates become text."""
    if isinstance(dtype, pl.List):
        inner = dtype.inner.inner if isinstance(dtype.inner, pl.List) else dtype.inner
        return inner == pl.String
    return not (dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Null))


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        path = name.lower() in PATH_COLUMNS
        return column.map_elements(
            lambda value: strip_markup(join_texts(value.to_list(), path=path)), return_dtype=pl.String, skip_nulls=True
        )
    return decoded(column.cast(pl.String))


def _filled(text: pl.Expr) -> pl.Expr:
    stripped = text.str.strip_chars()
    return pl.when(stripped != "").then(stripped)
