"""Warnings about columns: those that are missing, and which others, by their names and first values, look like them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from recsys.data.config import PrepareConfig
from recsys.data.profile import INTERACTIONS, UNKNOWN, DataWarning, Profile, TableFound
from recsys.data.times import EARLIEST

_FORMATS = tuple(
    f"{day}{clock}"
    for separator in "/-. "
    for clock in ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
    for day in (f"%d{separator}%m{separator}%Y", f"%m{separator}%d{separator}%Y")
)
# Parts of column names, likeliest first.
USER_NAMES = ("user", "customer", "reviewer", "member", "visitor", "account", "client", "buyer", "session")
ITEM_NAMES = ("item", "product", "movie", "asin", "sku", "isbn", "book", "track", "song", "artist", "article", "video")
TITLE_NAMES = ("title", "name")
TIME_NAMES = ("timestamp", "time", "date", "created")


def candidates(table: TableFound | None, names: tuple[str, ...], *roles: str) -> list[str]:
    """Columns of the given roles whose names contain one of `names`: ids first, then in the order of `names`."""
    columns = [column.name for column in table.columns if column.role in roles] if table else []
    found = [column for part in names for column in columns if part in column.lower()]
    return sorted(dict.fromkeys(found), key=lambda name: not name.lower().endswith("id"))


def about_columns(profile: Profile, config: PrepareConfig) -> Iterator[DataWarning]:
    """Columns that interactions need and do not have, and which others look like them."""
    table = table_of(profile, INTERACTIONS)
    if table is None:
        yield from _about_unknown(profile, config)
        return
    names = [column.name for column in table.columns]
    if len(names) > 1 and sum(name.replace(".", "").isdigit() for name in names) >= 2:
        yield DataWarning(
            "no-header",
            f"the first line of {table.name} ({', '.join(names[:4])}) looks like a row, not like names of columns",
            f"name the columns in order: prepare.columns=[{', '.join(_named(names))}]",
        )
        return
    for role, column, key, parts in _wanted(config):
        if column is not None and profile.kind == "table" and column not in names:
            likely = candidates(table, parts, "ignored")
            yield DataWarning(
                "missing-column",
                f"{table.name} has no column '{column}' for the {role}"
                + (f"; '{likely[0]}' looks like it" if likely else ""),
                f"prepare.{key}={likely[0] if likely else 'NAME'}",
            )


def _named(row: list[str]) -> list[str]:
    """Names for the fields of a row: user, item, and time, which is the last large number, or else the third."""
    times = [number for number, field in enumerate(row) if field.isdigit() and int(field) >= EARLIEST]
    known = {0: "user_id", 1: "item_id", (times or [2])[-1]: "timestamp"}
    return [known.get(number, f"column_{number + 1}") for number in range(len(row))]


def _wanted(config: PrepareConfig) -> list[tuple[str, str | None, str, tuple[str, ...]]]:
    """Role, column, key and parts of names of the columns that interactions need."""
    time = None if config.row_order_is_time else config.time_column
    return [
        ("user", config.user_column, "user_column", USER_NAMES),
        ("item", config.item_column, "item_column", ITEM_NAMES),
        ("time", time, "time_column", TIME_NAMES),
    ]


def _about_unknown(profile: Profile, config: PrepareConfig) -> Iterator[DataWarning]:
    """Which of the tables of a folder, whose names say nothing, holds interactions."""
    for table in profile.tables:
        columns = [column.name for column in table.columns]
        keys = [f"prepare.source={Path(config.source or '') / table.name}"]
        guesses = []
        for _, wanted, key, parts in _wanted(config):
            likely = candidates(table, parts, "ignored")
            guesses.append(wanted if wanted is None or wanted in columns else next(iter(likely), ""))
            if likely and wanted not in columns:
                keys.append(f"prepare.{key}={likely[0]}")
        if table.kind == UNKNOWN and "" not in guesses:
            yield DataWarning(
                "unnamed-interactions",
                f"{table.name} may hold the interactions: it has columns for users, items and times",
                " ".join(keys),
            )


def about_time_format(profile: Profile, config: PrepareConfig) -> Iterator[DataWarning]:
    """The formats that read all dates shown of a table whose times could not be read."""
    table = table_of(profile, INTERACTIONS)
    column = next((column for column in table.columns if column.role == "time"), None) if table else None
    if column is None or profile.times is not None or config.time_format is not None or column.type != "date":
        return
    likely = [form for form in _FORMATS if all(_is_date(value, form) for value in column.first)]
    if likely:
        either = ", or " if len(likely) > 1 else ""
        yield DataWarning(
            "time-format",
            f"column '{column.name}' holds dates such as {column.first[0]!r}, whose day or month comes first",
            either.join(f"'prepare.time_format={form}'" for form in likely),
        )


def _is_date(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def table_of(profile: Profile, kind: str) -> TableFound | None:
    """The table of interactions or of items, or None."""
    return next((table for table in profile.tables if table.kind == kind), None)
