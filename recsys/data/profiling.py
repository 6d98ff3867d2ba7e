"""Measures what a `Profile` shows: of tables as they are opened, and of interactions as they are cleaned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.data.cleaning import Coded, ties
from recsys.data.opening import PARQUET, PART, ROW, Table, suffix_of
from recsys.data.profile import (
    Basis,
    Bin,
    ColumnFound,
    ItemsFound,
    Period,
    Profile,
    Role,
    Sizes,
    TableFound,
    TimeExample,
    TimesFound,
)
from recsys.data.texts import is_text
from recsys.data.times import PER_SECOND, Clock, TimeUnit

SHOWN = 3
QUANTILES = (0, 25, 50, 75, 90, 100)
MAX_DAYS, MAX_MONTHS = 92, 600
_LONGEST = 80  # characters of a value that is shown
_DAY = 86_400
_DECIMAL_ID = r"^-?\d+\.0+$"
_DATE = (
    r"^\d{4}[-/.]?\d{1,2}[-/.]?\d{1,2}([ T]|$)|^\d{1,2}[-/. ](\d{1,2}|[A-Za-z]{3,9})[-/. ]\d{4}|[A-Z][a-z]{2} \d{1,2}"
)


def note_table(profile: Profile, kind: str, table: Table, roles: Mapping[str, Role], *, others: Role) -> None:
    """Add a table as it is opened; `roles` are those of named columns, `others` that of the rest.

    A column of texts that holds none, such as a vector, is ignored.

    Columns without a name of their own and without values, as between the double colons of MovieLens, are left out.

    Raises:
        DataError: its first rows cannot be read.
    """
    schema = {column: dtype for column, dtype in table.schemas[0].items() if column != ROW}
    found = TableFound(kind, table.path.name, len(table.parts), _form(table), [])
    profile.tables.append(found)
    found.columns = [
        ColumnFound(column, roles.get(column, others), _words(dtype), []) for column, dtype in schema.items()
    ]
    rows = table.first_rows()
    for column in found.columns:
        column.first = _shown(rows[column.name])
        if table.form is not None:
            column.type = _type_of_texts(column.first)
        if column.role == "text" and not is_text(schema[column.name]):
            column.role = "ignored"
    # Of the empty fields between double colons.
    found.columns = [column for column in found.columns if column.first or not column.name.startswith("_")]


def note_file(
    profile: Profile, kind: str, path: Path, form: str, first: Mapping[str, Any], roles: Mapping[str, Role]
) -> None:
    """Add a file of another form than tables by its first row or object."""
    columns = [
        ColumnFound(name, roles.get(name, "ignored"), _type_of_value(value), [str(value)[:_LONGEST]])
        for name, value in first.items()
    ]
    profile.tables.append(TableFound(kind, path.name, 1, form, columns))


def note_time_examples(profile: Profile, table: Table, column: str, rows: pl.DataFrame) -> None:
    """Add the times of the first usable rows (`ROW`, `PART`, `timestamp`) as written; `date_examples` dates them."""
    first = table.first_rows().select(ROW, written=pl.col(column).cast(pl.String))
    usable = rows.head(first.height).filter(pl.col(PART) == 0).select(ROW, "timestamp")
    pairs = usable.join(first, on=ROW, maintain_order="left").select("written", "timestamp")
    times = dict(pairs.unique("timestamp", maintain_order=True).head(SHOWN).iter_rows())
    profile.time_examples = [TimeExample(written.strip(), str(time)) for written, time in times.items()]


def date_examples(profile: Profile, unit: TimeUnit) -> None:
    """Replace the stored times of the examples by dates."""
    for example in profile.time_examples:
        example.read = moment(int(example.read), unit)


def moment(time: int, unit: TimeUnit) -> str:
    """A stored time for people: a date in UTC, or the position as it is."""
    if unit == "positions":
        return str(time)
    seconds, rest = divmod(time, PER_SECOND[unit])
    date = str(np.datetime64(seconds, "s")).replace("T", " ")
    digits = len(str(PER_SECOND[unit])) - 1
    return f"{date}.{rest:0{digits}d}".rstrip("0") if rest else date


def times_found(coded: Coded, unit: TimeUnit, clock: Clock, *, by_rows: bool, today: date) -> TimesFound:
    """The times of sorted interactions; `today` is the day of the import."""
    first, last = int(coded.times.min()), int(coded.times.max())
    scale = 0 if unit == "positions" else PER_SECOND[unit]
    seconds = coded.times // scale if scale else coded.times
    period, starts, counts = _by_period(seconds) if scale else ("", [], [])
    tied = ties(coded)
    tomorrow = (today.toordinal() - date(1970, 1, 1).toordinal() + 1) * _DAY
    return TimesFound(
        unit=unit,
        basis=_basis(unit, clock, by_rows=by_rows),
        first=moment(first, unit),
        last=moment(last, unit),
        distinct=int(pl.Series(coded.times).n_unique()),
        whole_days=bool(scale) and not (coded.times % (scale * _DAY)).any(),
        tied_share=round(float(tied.mean()), 4),
        in_future=int((seconds >= tomorrow).sum()) if scale else 0,
        period=period,
        starts=starts,
        counts=counts,
    )


def sizes(coded: Coded) -> Sizes:
    """Counts of sorted interactions."""
    by_user, by_item = np.bincount(coded.users), np.bincount(coded.items)
    lengths, popularity = by_user[by_user > 0], by_item[by_item > 0]
    pairs = coded.users.astype(np.uint64) * np.uint64(len(coded.item_ids)) + coded.items
    return Sizes(
        users=len(lengths),
        items=len(popularity),
        interactions=len(coded.users),
        repeats=len(pairs) - pl.Series(pairs).n_unique(),
        history={q: int(np.percentile(lengths, q, method="lower")) for q in QUANTILES},
        bins=_bins(lengths, popularity),
        largest_user=(coded.user_ids[int(by_user.argmax())], int(by_user.max())),
        largest_item=(coded.item_ids[int(by_item.argmax())], int(by_item.max())),
    )


def items_found(items: pl.DataFrame | None, coded: Coded) -> ItemsFound | None:
    """The items table against interactions; None without one."""
    if items is None:
        return None
    unlisted = coded.item_ids.filter(~coded.item_ids.is_in(items["item_id"].implode())).sort()
    texts = {name: round(1 - items[name].null_count() / items.height, 4) for name in items.columns if name != "item_id"}
    titles = items["title"].drop_nulls() if "title" in items.columns else pl.Series(dtype=pl.String)
    counted = titles.value_counts(sort=True).filter(pl.col("count") > 1)
    common = str(counted[0, 0]) if counted.height else None
    untitled = items.height - len(titles)
    shared = int(counted["count"].sum())
    first = unlisted[0] if len(unlisted) else None
    interacted = len(coded.item_ids)
    return ItemsFound(interacted, items.height, interacted - len(unlisted), first, untitled, shared, common, texts)


def decimal_ids(coded: Coded) -> list[str]:
    """The kinds of ids that are all whole numbers with decimals."""
    kinds = {"user": coded.user_ids, "item": coded.item_ids}
    return [name for name, ids in kinds.items() if ids.str.contains(_DECIMAL_ID).all()]


def _form(table: Table) -> str:
    if suffix_of(table.parts[0].path) in PARQUET:
        return "parquet"
    names = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes", ":": "colons", " ": "spaces"}
    form = table.form
    assert form is not None
    separator = names.get(form.separator, repr(form.separator))
    return f"text, {separator}" + ("" if form.has_header else ", no header")


def _shown(values: pl.Series) -> list[str]:
    texts = (str(value).strip()[:_LONGEST] for value in values.drop_nulls().to_list())
    return list(dict.fromkeys(texts))[:SHOWN]


def _words(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "whole number"
    if dtype.is_float() or dtype.is_decimal():
        return "decimal number"
    if dtype.is_temporal():
        return "date" if dtype == pl.Date else "date and time"
    if isinstance(dtype, pl.List | pl.Array):
        return "list"
    names = {pl.Boolean: "yes or no", pl.Binary: "bytes", pl.Null: "empty"}
    return names.get(dtype.base_type(), "struct" if dtype.is_nested() else "text")


def _type_of_texts(values: Sequence[str]) -> str:
    texts = pl.Series(values, dtype=pl.String)
    if texts.is_empty():
        return "text"
    if texts.cast(pl.Int64, strict=False).null_count() == 0:
        return "whole number"
    if texts.cast(pl.Float64, strict=False).null_count() == 0:
        return "decimal number"
    return "date" if texts.str.contains(_DATE).all() else "text"


def _type_of_value(value: object) -> str:
    kinds = {bool: "yes or no", int: "whole number", float: "decimal number", list: "list", dict: "struct"}
    return kinds.get(type(value), "text")


def _basis(unit: TimeUnit, clock: Clock, *, by_rows: bool) -> Basis:
    if by_rows:
        return "order of rows"
    if unit == "positions":
        return "positions"
    return "dates" if clock.unit is not None else "numbers"


def _by_period(seconds: npt.NDArray[np.int64]) -> tuple[Period, list[str], list[int]]:
    """Rows by day, month or year, whichever gives the most of at most `MAX_DAYS` or `MAX_MONTHS` periods."""
    ends = [np.datetime64(int(value), "s") for value in (seconds.min(), seconds.max())]
    period: Period = "year"
    code = "Y"
    days, months = (int(np.diff([end.astype(f"M8[{unit}]").astype(int) for end in ends])[0]) for unit in "DM")
    if days < MAX_DAYS:
        period, code = "day", "D"
    elif months < MAX_MONTHS:
        period, code = "month", "M"
    elif months // 12 >= MAX_MONTHS:  # times of several units, or of none
        return "year", [], []
    numbers = np.arange(ends[0].astype(f"M8[{code}]"), ends[1].astype(f"M8[{code}]") + 1)
    edges = numbers.astype("M8[s]").astype(np.int64)
    counts = np.bincount(np.searchsorted(edges, seconds, side="right") - 1, minlength=len(edges))
    return period, [str(number) for number in numbers], [int(count) for count in counts]


def _bins(lengths: npt.NDArray[np.int64], popularity: npt.NDArray[np.int64]) -> list[Bin]:
    """Users and items by the power of two of their interactions."""
    top = int(max(lengths.max(), popularity.max())).bit_length()
    users, items = (np.bincount(np.frexp(counts)[1] - 1, minlength=top) for counts in (lengths, popularity))
    return [Bin(2**n, 2 ** (n + 1) - 1, int(users[n]), int(items[n])) for n in range(top)]
