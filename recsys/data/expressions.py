"""Conditions over the columns of a table, as `prepare.where` and `prepare.dislikes` hold them.

The accepted form is a small part of SQL, which polars evaluates; there are no functions, so that a condition is about
one row alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import polars as pl

from recsys.errors import DataError

FORM = (
    "names of columns (others than words in backquotes), numbers, texts in quotes, = == != < <= > >= + - * / %, "
    "AND, OR, NOT, IN (...), BETWEEN ... AND ..., LIKE, IS NULL, IS NOT NULL, TRUE, FALSE and parentheses, "
    "such as rating >= 4 AND event == 'purchase'"
)
_KEYWORDS = {"AND", "OR", "NOT", "IN", "IS", "NULL", "BETWEEN", "LIKE", "ILIKE", "TRUE", "FALSE"}
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|`(?P<quoted>[^`]+)`
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<word>[^\W\d]\w*)
    |(?P<operator>==|!=|<>|<=|>=|[-=<>+*/%(),]))\s*""",
    re.VERBOSE,
)


class Condition(NamedTuple):
    """A condition as it was written, the columns that it names, and what polars makes of it."""

    text: str
    columns: tuple[str, ...]
    expression: pl.Expr

    def holds(self, values: pl.DataFrame, setting: str) -> pl.Series:
        """Where the condition is true, Boolean without nulls: a comparison with a missing value is false.

        Args:
            values: the columns, with numbers as `comparable` makes them.
            setting: the configuration key, for messages.

        Raises:
            DataError: a number is compared with text, or the condition is neither true nor false.
        """
        try:
            found = values.select(self.expression).to_series()
        except pl.exceptions.PolarsError as error:
            types = ", ".join(f"{name} ({_described(values[name])})" for name in self.columns)
            raise DataError(
                f"{setting}={self.text!r} does not fit its columns: {types}; compare numbers with numbers, and text "
                f"with text in quotes ({str(error).splitlines()[0]})"
            ) from error
        if found.dtype != pl.Boolean:
            raise DataError(f"{setting}={self.text!r} is a value and no condition; compare it, as in rating >= 4")
        return found.fill_null(value=False)


def parse_condition(text: str) -> Condition:
    """Read a condition; see `FORM`.

    Raises:
        ValueError: it is not of this form, or names no column.
    """
    parts: list[str] = []
    columns: dict[str, None] = {}
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"{text!r} cannot be read at {text[position:].strip()!r}; allowed: {FORM}")
        position, word = found.end(), found["word"]
        if found["text"]:
            quote = found["text"][0]
            content = found["text"][1:-1].replace(quote * 2, quote).replace("'", "''")
            parts.append(f"'{content}'")
        elif found["quoted"] or (word and word.upper() not in _KEYWORDS):
            if text[position : position + 1] == "(":
                raise ValueError(f"{text!r} calls {found[0].strip()!r}; there are no functions, allowed: {FORM}")
            name = found["quoted"] or word
            columns[name] = None
            parts.append('"' + name.replace('"', '""') + '"')
        else:
            parts.append("=" if found["operator"] == "==" else found[0].strip())
    try:
        expression = pl.sql_expr(" ".join(parts))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{text!r} cannot be read; allowed: {FORM}") from error
    if not columns:
        raise ValueError(f"{text!r} names no column; allowed: {FORM}")
    return Condition(text, tuple(columns), expression)


def comparable(column: pl.Series) -> pl.Series:
    """Text as numbers where all of it is numbers; empty texts and NaN as null."""
    if column.dtype.is_float():
        return column.fill_nan(None)
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return column
    text = column.str.strip_chars()
    text = text.set(text == "", None)
    for dtype in (pl.Int64, pl.Float64):
        numbers = text.cast(dtype, strict=False)
        if numbers.null_count() == text.null_count() < len(text):
            return numbers.fill_nan(None) if dtype == pl.Float64 else numbers
    return text


def _described(column: pl.Series) -> str:
    """What a column holds, for a message."""
    if column.dtype != pl.String:
        return "numbers" if column.dtype.is_numeric() else str(column.dtype)
    words = column.drop_nulls()
    words = words.filter(words.cast(pl.Float64, strict=False).is_null())
    return f"text, such as {words[0][:50]!r}" if len(words) else "text"
