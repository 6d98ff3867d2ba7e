"""Interactions and items from csv or parquet files: the format for user-provided data.

Reads FOLDER/interactions.csv or .parquet and, where there is one, FOLDER/items.csv or .parquet. A csv that polars
refuses (a row of too many fields, a stray quote, bytes that are no UTF-8) is read again row by row, so that the bad
rows can be named.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from recsys.data.delimited import salvage_csv
from recsys.data.raw import RAW_SCHEMA, RawData, Reading, Rejects
from recsys.data.texts import TextTable, identifier, text_table
from recsys.errors import DataError

SUFFIXES = (".parquet", ".csv")
ROW = "__row__"
REASONS = ("missing user id", "missing item id", "missing time", "unparsable time")
DATE_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d")
PROBED_ROWS = 1000


class Columns(NamedTuple):
    """Names of the columns of a table of interactions."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"


def find_table(folder: Path, name: str) -> Path | None:
    """FOLDER/name.parquet or FOLDER/name.csv, or None.

    Raises:
        DataError: both exist.
    """
    found = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} has {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def read_table(interactions: Path, items: Path | None, reading: Reading) -> RawData:
    """Read user-provided data; see the module's docstring.

    Raises:
        DataError: a file is empty or unreadable, a column is missing, or too many rows are bad.
    """
    config = reading.config
    columns = Columns(config.user_column, config.item_column, config.time_column)
    frame = read_interactions(interactions, columns=columns, rejects=reading.rejects)
    reading.check(interactions, frame.height)
    if items is None:
        return RawData(frame, None, {})
    table = _read_items(items, columns.item, reading)
    return RawData(frame, table.frame, {"ignored_item_columns": table.ignored, "repeated_items": table.repeated})


def read_interactions(path: Path, *, columns: Columns, rejects: Rejects) -> pl.DataFrame:
    """The usable rows in `RAW_SCHEMA`, in the file's order; the others go to `rejects`.

    Raises:
        DataError: a column is missing, there are no rows, or the file cannot be read.
    """
    try:
        return usable_rows(_scan(path), path, columns=columns, rejects=rejects)
    except pl.exceptions.ComputeError as error:
        rows = _salvage(path, error, rejects)
        return usable_rows(rows.lazy(), path, columns=columns, rejects=rejects)


def read_rows(path: Path, *, rejects: Rejects) -> pl.DataFrame:
    """A whole table, with its row numbers in `ROW`; rows that cannot be read go to `rejects`.

    Raises:
        DataError: the file is empty or cannot be read.
    """
    try:
        return _scan(path).collect()
    except pl.exceptions.ComputeError as error:
        return _salvage(path, error, rejects)


def usable_rows(rows: pl.LazyFrame, path: Path, *, columns: Columns, rejects: Rejects) -> pl.DataFrame:
    """The rows of a scanned table (with its row numbers in `ROW`) that have a user, an item and a time.

    Raises:
        DataError: a column is missing, or there are no rows.
    """
    schema = rows.collect_schema()
    for column in columns:
        if column not in schema:
            raise _missing(path, column, schema)
    user, item = (identifier(name, schema[name]) for name in (columns.user, columns.item))
    time = _time(rows, columns.time, schema[columns.time])
    untimed = pl.col(columns.time).is_null()
    if schema[columns.time] == pl.String:
        untimed |= pl.col(columns.time).str.strip_chars() == ""
    tests = (user.is_null(), item.is_null(), untimed, time.is_null())
    reason = pl.coalesce(pl.when(bad).then(pl.lit(number, pl.UInt8)) for number, bad in enumerate(tests))
    frame = rows.select(
        pl.col(ROW),
        user.cast(pl.Categorical).alias("user_id"),
        item.cast(pl.Categorical).alias("item_id"),
        time.alias("timestamp"),
        reason.alias("reason"),
    ).collect(engine="streaming")
    if frame.is_empty():
        raise DataError(f"{path} holds no rows; interactions are needed, one a row: {', '.join(columns)}")
    bad = frame.filter(pl.col("reason").is_not_null()).select(ROW, "reason")
    if bad.is_empty():
        return frame.select(*RAW_SCHEMA)
    _report(rows, bad, path, columns=columns, rejects=rejects)
    return frame.filter(pl.col("reason").is_null()).select(*RAW_SCHEMA)


def _scan(path: Path) -> pl.LazyFrame:
    """A lazy table with its row numbers; csv columns are read as strings and parsed here."""
    if path.suffix == ".parquet":
        return pl.scan_parquet(path).with_row_index(ROW, offset=1)
    try:
        rows = pl.scan_csv(path, infer_schema=False).with_row_index(ROW, offset=2)
        rows.collect_schema()
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{path} is empty; a header line and rows are needed") from error
    return rows


def _salvage(path: Path, error: Exception, rejects: Rejects) -> pl.DataFrame:
    if path.suffix == ".parquet":
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as parquet ({reason}); write it again") from error
    return salvage_csv(path, ROW, rejects=rejects)


def _read_items(path: Path, item_column: str, reading: Reading) -> TextTable:
    frame = read_rows(path, rejects=reading.rejects)
    if item_column not in frame.columns:
        raise _missing(path, item_column, frame.schema)
    known = identifier(item_column, frame.schema[item_column]).is_not_null()
    for row in frame.filter(~known).iter_rows(named=True):
        reading.rejects.add(path, row[ROW], "missing item id", str([v for k, v in row.items() if k != ROW]))
    usable = frame.filter(known).drop(ROW)
    reading.check(path, usable.height)
    return text_table(usable, item_column)


def _time(rows: pl.LazyFrame, column: str, dtype: pl.DataType) -> pl.Expr:
    """A time as an integer: numbers as they are (fractions cut off), dates as milliseconds since 1970."""
    value = pl.col(column)
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        return value.cast(pl.Datetime("ms")).cast(pl.Int64)
    if dtype != pl.String:
        return value.cast(pl.Int64, strict=False)
    text = value.str.strip_chars()
    number = pl.coalesce(text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)).cast(
        pl.Int64, strict=False
    )
    probe = rows.select(column).head(PROBED_ROWS).select(number.is_not_null().any()).collect().item()
    if probe:
        return number
    zoned = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", strict=False, time_unit="ms").dt.replace_time_zone(None)
    plain = text.str.strip_suffix("Z")
    dates = [plain.str.to_datetime(form, strict=False, time_unit="ms") for form in DATE_FORMATS]
    return pl.coalesce(*dates, zoned).cast(pl.Int64)


def _report(rows: pl.LazyFrame, bad: pl.DataFrame, path: Path, *, columns: Columns, rejects: Rejects) -> None:
    """Count the bad rows and collect the contents of those that are kept."""
    shown = bad.head(max(0, rejects.limit - len(rejects.rows)))
    contents = rows.select(ROW, pl.concat_str(pl.col(*columns).cast(pl.String), separator=",", ignore_nulls=True))
    wanted = contents.join(shown.lazy().select(ROW), on=ROW, how="semi").collect()
    texts = dict(wanted.iter_rows())
    for row, reason in bad.iter_rows():
        rejects.add(path, row, REASONS[reason], texts.get(row) or "")


def _missing(path: Path, column: str, schema: pl.Schema) -> DataError:
    found = ", ".join(name for name in schema if name != ROW)
    return DataError(
        f"{path}: column '{column}' is missing; found {found or 'no columns'}; rename it, or set "
        "prepare.user_column, prepare.item_column, prepare.time_column"
    )
