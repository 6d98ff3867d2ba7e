"""Tables that describe items or users: an id in every row, and text columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from recsys.data.config import PrepareConfig
from recsys.data.delimited import Layout
from recsys.data.opening import PART, ROW, Table
from recsys.data.profile import ITEMS, USERS
from recsys.data.profiling import note_table
from recsys.data.raw import EMPTY_ROW, Reading
from recsys.data.texts import TITLE, TextTable, text_table
from recsys.errors import DataError
from recsys.tables import LONGEST_ID, identifier

UNUSABLE_ID = r"^(?s:.{" + str(LONGEST_ID + 1) + r",})$|[\r\n]"
_ITEM_HINT = "rename it, or set prepare.items_item_column; prepare.items_columns names those of a file without header"
_USER_HINT = "rename it, or set prepare.user_column; a table `users` describes the users of the interactions"

Noun = Literal["item", "user"]


class IdReasons(NamedTuple):
    """Why an id cannot be used."""

    inexact: str
    missing: str
    unusable: str

    @classmethod
    def of(cls, noun: Noun) -> IdReasons:
        return cls(
            f"{noun} id is no whole number",
            f"missing {noun} id",
            f"{noun} id of more than {LONGEST_ID} characters, or with a line break",
        )


def read_items(path: Path, reading: Reading) -> TextTable:
    """The table of items, as the configuration names its columns.

    Raises:
        DataError: a column is missing, there are no rows, or too many are bad.
    """
    config = reading.config
    column = config.items_item_column or config.item_column
    layout = Layout(config.separator, config.items_columns, (column, config.title_column))
    table = Table(path, layout, reading.rejects)
    note_table(reading.profile, ITEMS, table, {column: "item id", config.title_column: "title"}, others="text")
    table.require([column], _ITEM_HINT)
    if config.title_column != PrepareConfig.model_fields["title_column"].default:
        table.require([config.title_column], "rename it, or set prepare.title_column")
    return described_rows(table, column, reading, title_column=config.title_column)


def read_users(path: Path, reading: Reading) -> TextTable:
    """The table of users; its ids are in the column that has them in the interactions.

    Raises:
        DataError: a column is missing, there are no rows, or too many are bad.
    """
    column = reading.config.user_column
    table = Table(path, Layout(reading.config.separator, (), (column,)), reading.rejects)
    note_table(reading.profile, USERS, table, {column: "user id"}, others="text")
    table.require([column], _USER_HINT)
    return described_rows(table, column, reading, noun="user")


def described_rows(
    table: Table, column: str, reading: Reading, *, noun: Noun = "item", title_column: str = TITLE
) -> TextTable:
    """The rows of a table with an id in `column`, the first row of each; `item_id` or `user_id`, and texts.

    Raises:
        DataError: there are no rows, or too many are bad.
    """
    reasons = IdReasons.of(noun)

    def columns(schema: pl.Schema) -> Sequence[pl.Expr]:
        found = identifier(column, schema[column])
        tests = [
            (EMPTY_ROW, pl.all_horizontal(pl.col(name).is_null() for name in schema if name != ROW)),
            (reasons.inexact, found.inexact),
            (reasons.missing, found.text.is_null()),
            (reasons.unusable, found.text.str.contains(UNUSABLE_ID)),
        ]
        reason = pl.coalesce(pl.when(bad).then(pl.lit(name)) for name, bad in tests)
        others = [pl.col(name) for name in schema if name not in (ROW, column)]
        return [found.text.alias(column), *others, reason.alias(PART + "reason")]

    frame = table.select(columns)
    bad = frame.filter(pl.col(PART + "reason").is_not_null())
    table.reject(bad, bad[PART + "reason"], shown=frame.columns)
    usable = frame.filter(pl.col(PART + "reason").is_null()).drop(ROW, PART, PART + "reason")
    reading.check(table.path, usable.height)
    if usable.is_empty():
        raise DataError(f"{table.path} holds no {noun}s; write one a row, or remove the file to use ids alone")
    return text_table(usable, column, id_name=f"{noun}_id", title_column=title_column)
