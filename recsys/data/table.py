"""Interactions and items from tables of any kind of file: the format for user-provided data.

Reads the tables `interactions` and `items` of a folder, or a table of interactions alone; see `recsys.data.opening` for
the kinds of files, and `docs/data.md` for the rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recsys.data.config import PrepareConfig
from recsys.data.delimited import Layout
from recsys.data.described import UNUSABLE_ID, IdReasons, Noun, read_items, read_users
from recsys.data.events import BAD_WEIGHT, NO_EVENT, NOT_SELECTED, Events
from recsys.data.joining import join_ids
from recsys.data.opening import PART, ROW, Table
from recsys.data.profile import INTERACTIONS, Role
from recsys.data.profiling import note_table, note_time_examples
from recsys.data.raw import EMPTY_ROW, MARKS, RAW_SCHEMA, RawData, Reading
from recsys.data.texts import TextTable, first_text
from recsys.data.times import ACCEPTED, Clock, Times, calendar_times, implausible, magnitudes, read_times
from recsys.errors import DataError
from recsys.tables import identifier

_USER, _ITEM = IdReasons.of("user"), IdReasons.of("item")
REASONS = (
    EMPTY_ROW,
    *_USER,
    *_ITEM,
    "missing time",
    "unparsable time",
    "implausible time",
    BAD_WEIGHT,
    NO_EVENT,
    NOT_SELECTED,
)
_REASON = pl.Enum(REASONS)
LONGEST_INTENTION = 500  # characters
_RAW = "__raw__"  # prefix of columns as the file has them
_COLUMNS_HINT = (
    "rename it, or set prepare.user_column, prepare.item_column, prepare.time_column; prepare.columns names those of a "
    "file without header"
)


class Columns(NamedTuple):
    """Names of the columns of a table of interactions; the time is None where the order of rows is that in time."""

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"

    @property
    def names(self) -> list[str]:
        return [name for name in self if name is not None]


class TimedRows(NamedTuple):
    """Usable interactions in the file's order (see `RawData`), what their times mean, and notes for the data card."""

    frame: pl.DataFrame
    clock: Clock
    not_selected: int = 0
    notes: dict[str, Any] = {}  # noqa: RUF012


def columns_of(config: PrepareConfig) -> Columns:
    """The columns of the interactions that a configuration names."""
    return Columns(config.user_column, config.item_column, None if config.row_order_is_time else config.time_column)


def read_table(interactions: Path, items: Path | None, users: Path | None, reading: Reading) -> RawData:
    """Read user-provided data; see the module's docstring.

    Raises:
        ConfigError: the separator, names of columns or time format of the configuration cannot be used.
        DataError: a file is empty or unreadable, a column is missing, too many rows are bad, times are of two units, or
            the ids of both tables are not of one form.
    """
    config = reading.config
    layout = Layout(config.separator, config.columns, tuple(columns_of(config).names))
    rows = read_interactions(interactions, layout=layout, columns=columns_of(config), reading=reading)
    raw = RawData(rows.frame, None, rows.notes, rows.clock, not_selected=rows.not_selected)
    if items is not None:
        raw = _with_described(raw, read_items(items, reading), "item", interactions, items, config)
    if users is not None:
        raw = _with_described(raw, read_users(users, reading), "user", interactions, users, config)
    return raw


def _with_described(
    raw: RawData, table: TextTable, noun: Noun, interactions: Path, path: Path, config: PrepareConfig
) -> RawData:
    """With a table of items or users, whose ids are matched with those of the interactions."""
    joined = join_ids(raw.interactions, table.frame, interactions, path, max_share=config.max_bad_share, noun=noun)
    notes = {f"ignored_{noun}_columns": table.ignored, f"repeated_{noun}s": table.repeated, **joined.notes}
    raw = raw._replace(interactions=joined.interactions, notes=raw.notes | notes)
    return raw._replace(items=joined.described) if noun == "item" else raw._replace(users=joined.described)


def read_interactions(
    path: Path, *, layout: Layout, columns: Columns, reading: Reading, hint: str = _COLUMNS_HINT
) -> TimedRows:
    """The usable rows of a table of interactions; the others are rejected. `hint` says what to do without a column.

    Raises:
        DataError: a column is missing, there are no usable rows, too many are bad, or the file cannot be read.
    """
    table = Table(path, layout, reading.rejects)
    roles: dict[str, Role] = dict.fromkeys(reading.config.intention_columns, "text")
    roles |= {**Events.of(reading.config).roles, columns.user: "user id", columns.item: "item id"}
    if columns.time is not None:
        roles[columns.time] = "time"
    note_table(reading.profile, INTERACTIONS, table, roles, others="ignored")
    table.require(columns.names, hint)
    table.require(reading.config.intention_columns, "rename it, or correct prepare.intention_columns")
    return usable_rows(table, columns=columns, reading=reading)


def usable_rows(table: Table, *, columns: Columns, reading: Reading) -> TimedRows:
    """The rows of a table that have a user, an item and a time.

    Raises:
        DataError: there are none, too many are bad, or times are of two units.
    """
    events = Events.of(reading.config)
    for schema in table.schemas:
        events.require((name for name in schema if name != ROW), table.path)
    frame = table.select(
        lambda schema: [
            *_codes(schema, columns),
            *(pl.col(n).alias(_RAW + n) for n in events.columns),
            *_intention(schema, reading.config),
        ]
    )
    if frame.is_empty():
        raise DataError(f"{table.path} holds no rows; interactions are needed, one a row: {', '.join(columns.names)}")
    notes: dict[str, Any] = {}
    if events.columns:
        frame, notes = _judged(frame, events, table.path)
    frame = frame.with_columns(_id_reasons(frame))
    clock = Clock()
    if columns.time is not None:
        frame, clock = _timed(table, frame, columns.time, reading)
    not_selected = len((frame["reason"] == NOT_SELECTED).arg_true())
    if not_selected and clock.unit is None and _are_positions(frame):
        clock = clock._replace(unit="positions")  # the selected rows alone have gaps
    bad = frame.filter(pl.col("reason").is_not_null() & (pl.col("reason") != NOT_SELECTED)).select(ROW, PART, "reason")
    if len(bad) or not_selected:
        table.reject(bad, bad["reason"].cast(pl.String), shown=[*dict.fromkeys([*columns.names, *events.columns])])
        frame = frame.filter(pl.col("reason").is_null())
    reading.check(table.path, frame.height)
    if frame.is_empty():
        raise DataError(f"{table.path} holds no usable rows; the first one is refused for: {bad['reason'][0]}")
    if columns.time is not None:
        note_time_examples(reading.profile, table, columns.time, frame)
    else:
        position = pl.int_range(pl.len(), dtype=pl.Int64).over("user_id")
        frame = frame.with_columns(timestamp=position)
    marks = [name for name in MARKS if name in frame.columns]
    return TimedRows(frame.select(*RAW_SCHEMA, *marks), clock, not_selected, notes)


def _are_positions(frame: pl.DataFrame) -> bool:
    """Whether the times of every user are 0, 1, 2, ..."""
    users = frame.drop_nulls(["user_id", "timestamp"]).group_by("user_id")
    found = users.agg(
        first=pl.col("timestamp").min(), last=pl.col("timestamp").max(), count=pl.col("timestamp").n_unique()
    )
    complete = (pl.col("first") <= 1) & (pl.col("last") - pl.col("first") + 1 == pl.col("count"))
    return found.height > 0 and bool(found.select(complete.all()).item())


def _judged(frame: pl.DataFrame, events: Events, path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """With the columns that the settings ask for, and the reasons of rows that they leave out or cannot use."""
    judged = events.judge(frame.select(pl.col(_RAW + name).alias(name) for name in events.columns), path)
    found = pl.coalesce(pl.when(~judged.selected).then(pl.lit(NOT_SELECTED)), judged.reasons).cast(_REASON)
    reason = pl.when(pl.col("reason") == EMPTY_ROW).then("reason").otherwise(pl.coalesce(found, "reason"))
    frame = frame.with_columns(reason.alias("reason"), *judged.marks(events))
    return frame.drop(_RAW + name for name in events.columns), judged.notes()


def _codes(schema: pl.Schema, columns: Columns) -> list[pl.Expr]:
    """Ids as categories, times that are whole numbers as such, and why a row is bad as far as a row alone shows it."""
    user, item = (identifier(name, schema[name]) for name in (columns.user, columns.item))
    empty = pl.all_horizontal(pl.col(name).is_null() for name in schema if name != ROW)
    tests = [
        (EMPTY_ROW, empty),
        (_USER.inexact, user.inexact),
        (_ITEM.inexact, item.inexact),
        (_USER.missing, user.text.is_null()),
        (_ITEM.missing, item.text.is_null()),
    ]
    whole = pl.lit(None, pl.Int64)
    if columns.time is not None:
        value, dtype = pl.col(columns.time), schema[columns.time]
        text = value.str.strip_chars() if dtype == pl.String else value
        missing = value.is_null() | (text == "" if dtype == pl.String else False)
        tests.append(("missing time", missing | value.is_nan() if dtype.is_float() else missing))
        if dtype == pl.String or dtype.is_integer():
            whole = text.cast(pl.Int64, strict=False)
    reason = pl.coalesce(pl.when(bad).then(pl.lit(name, _REASON)) for name, bad in tests)
    return [
        user.text.cast(pl.Categorical).alias("user_id"),
        item.text.cast(pl.Categorical).alias("item_id"),
        whole.alias("timestamp"),
        reason.alias("reason"),
    ]


def _intention(schema: pl.Schema, config: PrepareConfig) -> list[pl.Expr]:
    names = config.intention_columns
    return [first_text(schema, names, longest=LONGEST_INTENTION).alias("intention")] if names else []


def _id_reasons(frame: pl.DataFrame) -> pl.Expr:
    """`reason`, also for ids that the endpoint would refuse."""
    reason = pl.col("reason")
    for name, reasons in (("user_id", _USER), ("item_id", _ITEM)):
        known = frame[name].drop_nulls().unique()
        unusable = known.filter(known.cast(pl.String).str.contains(UNUSABLE_ID))
        if len(unusable):
            reason = (
                pl.when(reason.is_null() & pl.col(name).is_in(unusable.implode()))
                .then(pl.lit(reasons.unusable, _REASON))
                .otherwise(reason)
            )
    return reason.alias("reason")


def _timed(table: Table, frame: pl.DataFrame, column: str, reading: Reading) -> tuple[pl.DataFrame, Clock]:
    """The rows with their times, and the reasons of those whose time cannot be used."""
    config, clock = reading.config, Clock()
    untimed = frame["timestamp"].is_null() & frame["reason"].is_null()
    if config.time_format is not None or untimed.any():
        values, clock = _whole_column(table, column, config.time_format)
        frame = frame.with_columns(timestamp=values)
        untimed = frame["timestamp"].is_null() & frame["reason"].is_null()
    if config.time_format is None and clock == Clock() and (dates := calendar_times(frame["timestamp"])):
        frame, clock = frame.with_columns(timestamp=dates.values), dates.clock
    checked = frame["timestamp"].is_not_null() & frame["reason"].is_null()
    num_untimed, num_checked = (len(rows.arg_true()) for rows in (untimed, checked))
    if num_untimed > config.max_bad_share * (num_checked + num_untimed) or not num_checked:
        _refuse_unparsable(table, frame, untimed, column, config)
    odd = pl.repeat(False, frame.height, eager=True)
    if config.check_times:
        odd = implausible(pl.select(pl.when(checked).then(frame["timestamp"])).to_series(), clock)
        if len(odd.arg_true()) > config.max_bad_share * num_checked:
            raise _two_units(table, frame.filter(checked), odd.filter(checked), column, clock)
    reason = (
        pl.when(untimed).then(pl.lit("unparsable time", _REASON)).when(odd).then(pl.lit("implausible time", _REASON))
    )
    return frame.with_columns(reason=reason.otherwise("reason")), clock


def _whole_column(table: Table, column: str, time_format: str | None) -> Times:
    """The times of a column, by all of its values."""
    types = {str(schema[column]) for schema in table.schemas}
    if len(types) > 1:
        raise DataError(f"{table.path}: column '{column}' is {' in some files and '.join(sorted(types))} in others")
    values = table.select(lambda _: [pl.col(column)])[column]
    try:
        return read_times(values, time_format=time_format)
    except DataError as error:
        raise DataError(f"{table.path}: {error}") from error


def _refuse_unparsable(
    table: Table, frame: pl.DataFrame, untimed: pl.Series, column: str, config: PrepareConfig
) -> None:
    """Refuse a column of which too many values are no times, naming what is accepted."""
    if not untimed.any():
        return
    row, part = frame.filter(untimed).select(ROW, PART).row(0)
    accepted = f"prepare.time_format={config.time_format}" if config.time_format else ACCEPTED
    raise DataError(
        f"{table.parts[part].path}: {untimed.sum()} of {frame.height} rows cannot be used, as the value of column "
        f"'{column}' is no time that is read, the first in row {row}: {table.value(part, row, column)!r}; accepted: "
        f"{accepted}; set prepare.time_format, such as %d/%m/%Y %H:%M where the day or month comes first, correct the "
        "file, or raise prepare.max_bad_share"
    )


def _two_units(table: Table, frame: pl.DataFrame, odd: pl.Series, column: str, clock: Clock) -> DataError:
    scale = pl.lit(clock.scale)
    plain = frame.select(pl.col("timestamp") // scale).to_series()
    found = ", ".join(f"{count} {unit}" for unit, count in magnitudes(plain).items())
    row, part = frame.filter(odd).select(ROW, PART).row(0)
    usual_row, usual_part = frame.filter(~odd).select(ROW, PART).row(0)
    return DataError(
        f"{table.parts[part].path}: column '{column}' mixes times of different units (by magnitude: {found}; "
        f"{table.value(usual_part, usual_row, column)} in row {usual_row}, {table.value(part, row, column)} in row "
        f"{row}); "
        "convert them to one unit, or set prepare.check_times=false if they are right"
    )
