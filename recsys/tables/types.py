"""Array types that every table uses, and the check of a frame's columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


def slices(length: int, size: int) -> Iterator[slice]:
    """`range(length)` in slices of at most `size`."""
    return (slice(start, start + size) for start in range(0, length, size))


def check_schema(frame: pl.DataFrame, schema: Mapping[str, pl.DataType | type[pl.DataType]], name: str) -> None:
    for column, dtype in schema.items():
        if column not in frame.columns:
            raise DataError(f"{name}: column '{column}' is missing; found {', '.join(frame.columns) or 'no columns'}")
        if frame.schema[column] != dtype:
            raise DataError(f"{name}: column '{column}' is {frame.schema[column]}, expected {dtype}")
