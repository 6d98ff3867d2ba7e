"""Identifiers of users and items as text: one form for every type of column, exact, and short enough to be served."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from recsys.errors import DataError

LONGEST_ID = 256  # characters; the endpoint takes no longer ones
_LARGEST_EXACT = 2**53  # larger whole numbers of a float column may have been rounded


class Identifier(NamedTuple):
    """A column of ids: as text (null where there is none), and which of its values are numbers that are no ids."""

    text: pl.Expr
    inexact: pl.Expr


def identifier(column: str, dtype: pl.DataType) -> Identifier:
    """Ids without the white space around them; whole numbers of decimal columns as integers (`8.0` is `8`).

    Missing are nulls, NaN and empty texts; inexact are fractions, infinities, and floats of 2^53 and more.

    Raises:
        DataError: such columns hold no ids.
    """
    value = pl.col(column)
    if dtype.is_float() or dtype.is_decimal():
        present = value.is_not_null() & (value.is_not_nan() if dtype.is_float() else True)
        whole = value.cast(pl.Int64, strict=False)
        exact = (whole.cast(dtype, strict=False) == value).fill_null(False)
        if dtype.is_float():
            exact &= whole.abs() < _LARGEST_EXACT
        return Identifier(pl.when(present & exact).then(whole.cast(pl.String)), present & ~exact)
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Boolean):
        raise DataError(f"column '{column}' is {dtype}; ids are text or whole numbers")
    stripped = value.cast(pl.String).str.strip_chars()
    return Identifier(pl.when(stripped != "").then(stripped), pl.lit(False))
