"""Warnings about data that an import reads but may misunderstand, each with how to correct it.

Looks only at a `Profile` and the configuration; a profile that ends early gives those that it reached.
"""

from __future__ import annotations

from collections.abc import Iterator

from recsys.data.cleaning import ORDER_SHARE
from recsys.data.column_advice import TIME_NAMES, TITLE_NAMES, about_columns, about_time_format, candidates, table_of
from recsys.data.config import PrepareConfig
from recsys.data.profile import (
    INTERACTIONS,
    ITEMS,
    DataWarning,
    ItemsFound,
    Profile,
    Sizes,
    TimesFound,
)
from recsys.data.raw import EMPTY_ROW

FEW_USERS, FEW_TIMES, FEW_ITEMS = 100, 20, 20
MUCH, LARGE = 0.05, 0.2  # shares of rows, users or items
DOMINANT_SHARE, DOMINANT = 0.1, 10  # of all rows; times the median user
OLDEST = 1990


def warnings_about(profile: Profile, config: PrepareConfig) -> list[DataWarning]:
    """All warnings, in the order in which data are read."""
    found = [*about_columns(profile, config), *_about_rows(profile, config), *about_time_format(profile, config)]
    if profile.times is not None and profile.before is not None:
        found += _about_times(profile, profile.times, profile.before, config)
        found += _about_ids(profile, profile.before)
        found += _about_order(profile, config)
        found += _about_items(profile, profile.items)
    if profile.after is not None and profile.before is not None:
        found += _about_sizes(profile.before, profile.after, config)
    return found


def _about_rows(profile: Profile, config: PrepareConfig) -> Iterator[DataWarning]:
    reasons: dict[str, int] = {}
    for by_reason in profile.counts.get("rejected", {}).values():
        for reason, count in by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + count
    reasons.pop(EMPTY_ROW, None)
    if reasons:
        first = next((row for row in profile.rejected if row["reason"] in reasons), None)
        example = f"; row {first['row']} of {first['file']}: {first['content'][:60]!r}" if first else ""
        listed = ", ".join(f"{count:,} x {reason}" for reason, count in reasons.items())
        yield DataWarning(
            "rejected-rows",
            f"{_some(sum(reasons.values()), 'row')} cannot be used ({listed}{example})",
            f"correct them; up to {config.max_bad_share:.0%} of a file are left out (prepare.max_bad_share)",
        )
    repeated, rows = profile.counts.get("exact_duplicates", 0), profile.counts.get("rows", 0)
    if repeated > MUCH * rows:
        yield DataWarning(
            "exact-duplicates",
            f"{repeated / rows:.0%} of the rows have the user, item and time of an earlier one, and are left out",
            "if they are events of their own, name a finer time: prepare.time_column",
        )


def _about_times(profile: Profile, times: TimesFound, before: Sizes, config: PrepareConfig) -> Iterator[DataWarning]:
    likely = candidates(table_of(profile, INTERACTIONS), TIME_NAMES, "ignored")
    another = f"prepare.time_column={likely[0]}" if likely else "name another column: prepare.time_column"
    if config.row_order_is_time:
        if likely:
            yield DataWarning(
                "unused-time",
                f"the order of rows counts as time, and column '{likely[0]}' looks like one",
                f"prepare.row_order_is_time=false {another}",
            )
        return
    if times.unit == "positions":
        return
    in_order = "or prepare.row_order_is_time=true where the rows are in the order of time"
    rows = before.interactions
    if times.distinct == 1 and rows > 1:
        yield DataWarning("one-time", f"all rows have the same time, {times.first}", f"{another}, {in_order}")
    elif times.basis == "numbers" and times.distinct <= min(FEW_TIMES, rows // 10) and _year(times.last) < OLDEST:
        yield DataWarning(
            "few-times",
            f"the {rows:,} rows have only {times.distinct} different times ({times.first} to {times.last}): is that "
            "column a time?",
            f"{another}, {in_order}",
        )
        return
    if times.distinct > 1 and times.tied_share >= LARGE:
        days = ", as times are whole days" if times.whole_days else ""
        yield DataWarning(
            "ties",
            f"{times.tied_share:.0%} of the rows share their time with another one of their user{days}; their order is "
            "that of the file",
            "sort the file, or name a column of finer times: prepare.time_column",
        )
    yield from _about_dates(times, rows, another)


def _about_dates(times: TimesFound, rows: int, another: str) -> Iterator[DataWarning]:
    old = sum(count for start, count in zip(times.starts, times.counts, strict=True) if _year(start) < OLDEST)
    if old or (not times.starts and _year(times.first) < OLDEST):
        number = f"{old:,} of {rows:,}" if times.starts else "some of the"
        yield DataWarning(
            "old-times",
            f"{number} rows are before {OLDEST}, the first at {times.first}, read as {times.unit}",
            f"{another}; convert times of another unit or start; leave out rows whose time is unknown",
        )
    if times.in_future:
        yield DataWarning(
            "future-times",
            f"{times.in_future:,} of {rows:,} rows are after today, the last at {times.last}, read as {times.unit}",
            f"{another}; convert times of another unit or start; leave out rows whose time is unknown",
        )


def _year(moment: str) -> int:
    """Of a date that may have more than four digits of a year, or lie before year 0."""
    sign, digits = (-1, moment[1:]) if moment.startswith("-") else (1, moment)
    return sign * int(digits.split("-")[0])


def _about_ids(profile: Profile, before: Sizes) -> Iterator[DataWarning]:
    examples = {"user": before.largest_user[0], "item": before.largest_item[0]}
    for name in profile.decimal_ids:
        yield DataWarning(
            "decimal-ids",
            f"{name} ids are whole numbers with decimals, such as {examples[name]!r}, and stay so",
            "write them without (in pandas, astype('Int64') before saving)",
        )
    (user, count), median = before.largest_user, before.history[50]
    if count >= max(DOMINANT_SHARE * before.interactions, DOMINANT * median):
        yield DataWarning(
            "one-user",
            f"user {user!r} has {count / before.interactions:.0%} of all rows, and half of the users at most {median}",
            "leave it out if it stands for guests, a test account or an empty id",
        )
    item, count = before.largest_item
    if before.items >= FEW_ITEMS and count >= LARGE * before.interactions:
        yield DataWarning(
            "one-item",
            f"item {item!r} has {count / before.interactions:.0%} of all rows",
            "leave it out if it is no item to recommend, such as a bag or a start page",
        )


def _about_order(profile: Profile, config: PrepareConfig) -> Iterator[DataWarning]:
    share = profile.sorted_by_id_share
    if share is not None and share >= ORDER_SHARE and not config.check_order:
        yield DataWarning(
            "order-of-ids",
            f"{share:.0%} of the users have their rows sorted by item id, which is no order in time",
            "use data with real times, unless items are numbered in the order of their appearance",
        )


def _about_items(profile: Profile, items: ItemsFound | None) -> Iterator[DataWarning]:
    if items is None:
        yield DataWarning(
            "no-items",
            "there is no table of items, so that items have neither titles nor texts",
            "put items.csv (item_id, title, ...) beside the interactions, or set prepare.items=FILE",
        )
        return
    unlisted = items.interacted - items.matched
    if unlisted > MUCH * items.interacted:
        yield DataWarning(
            "unlisted-items",
            f"{unlisted:,} of {items.interacted:,} items with interactions are not in the table of items, the first is "
            f"{items.first_unlisted!r}; they have no texts",
            "complete the table, or name its column of the same ids: prepare.items_item_column",
        )
    likely = candidates(table_of(profile, ITEMS), TITLE_NAMES, "text")
    another = f"prepare.title_column={likely[0]}" if likely else "name another column: prepare.title_column"
    if "title" not in items.texts:
        yield DataWarning("no-titles", "the table of items has no column 'title'", another)
    elif items.untitled > MUCH * items.listed:
        yield DataWarning(
            "untitled-items",
            f"{items.untitled:,} of {items.listed:,} items have no title",
            f"fill them, or {another}" if not likely else another,
        )
    if items.same_title > LARGE * items.listed:
        yield DataWarning(
            "same-titles",
            f"{items.same_title:,} of {items.listed:,} items share their title with another one, most often "
            f"{items.common_title!r}",
            another,
        )


def _about_sizes(before: Sizes, after: Sizes, config: PrepareConfig) -> Iterator[DataWarning]:
    lower = f"lower prepare.min_interactions={config.min_interactions}"
    if after.interactions < before.interactions / 2:
        yield DataWarning(
            "mostly-filtered",
            f"{1 - after.interactions / before.interactions:.0%} of the interactions are filtered out, and "
            f"{before.users - after.users:,} of {before.users:,} users",
            f"{lower} to keep users and items with fewer interactions",
        )
    if after.users < FEW_USERS:
        yield DataWarning(
            "few-users",
            f"only {_some(after.users, 'user')} are left, so that metrics have wide intervals",
            lower if before.users >= FEW_USERS and config.min_interactions > 1 else "use data of more users",
        )


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("s" if count != 1 else "")
