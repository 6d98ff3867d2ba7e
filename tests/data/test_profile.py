"""What an import finds and warns about: every kind of misunderstood data gives its warnings, and sound data none."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.config import PrepareConfig
from recsys.data.dataset import import_dataset, profile_dataset
from recsys.data.profile import Profile
from recsys.data.raw import Rejects
from recsys.errors import DataError

START = 1_700_000_000
USERS, ITEMS, LENGTH = 120, 24, 6
Row = tuple[Any, Any, Any]
# A user's items in order: item 5k further on, modulo the catalogue; users start an hour apart.
ROWS: list[tuple[int, int, int]] = [
    (u, (u + 5 * k) % ITEMS, START + 3600 * u + 60 * k) for u in range(USERS) for k in range(LENGTH)
]


def profiled(folder: Path, **options: Any) -> tuple[Profile, str | None]:
    """The profile of a folder, and the message of the refusal."""
    profile, refusal = Profile(), None
    config = PrepareConfig(**{"source": str(folder), **options})
    with tempfile.TemporaryDirectory() as work:
        try:
            profile_dataset(config, profile, seed=0, work=Path(work), rejects=Rejects(100))
        except DataError as error:
            refusal = str(error)
    return profile, refusal


def table(
    folder: Path,
    *,
    rows: Sequence[Row] = ROWS,
    header: str = "user_id,item_id,timestamp",
    titles: Callable[[int], str] = lambda i: f"Title {i}",
    items: bool = True,
    items_header: str = "item_id,title",
    name: str = "interactions.csv",
) -> Path:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if items:
        listed = [f"{i},{titles(i)}" for i in range(ITEMS)]
        (folder / "items.csv").write_text("\n".join([items_header, *listed]) + "\n", encoding="utf-8")
    return folder


def names(profile: Profile) -> list[str]:
    return [warning.name for warning in profile.warnings]


def timed(time: Callable[[int, int], object]) -> list[Row]:
    """The rows with a time made of the true one and of the position in the user's sequence."""
    return [(u, i, time(t, number % LENGTH)) for number, (u, i, t) in enumerate(ROWS)]


def moment(seconds: int, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def test_sound_data_give_no_warning(tmp_path: Path) -> None:
    profile, refusal = profiled(table(tmp_path))
    assert (names(profile), refusal) == ([], None)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], str]] = {
    # name: the table, options, the warnings, and what the fix of the first one has
    "all times equal": (
        {"rows": timed(lambda t, k: START)},
        {},
        ["one-time"],
        "prepare.row_order_is_time=true",
    ),
    "a rating as time": (
        {"rows": [(u, i, n % 5 + 1, t) for n, (u, i, t) in enumerate(ROWS)], "header": "user_id,item_id,stars,date"},
        {"time_column": "stars"},
        ["few-times"],
        "prepare.time_column=date",
    ),
    "whole days": (
        {"rows": timed(lambda t, k: moment(t, "%Y-%m-%d"))},
        {},
        ["ties"],
        "prepare.time_column",
    ),
    "zero for an unknown time": (
        {"rows": timed(lambda t, k: 0 if k == 0 else t)},
        {"check_times": False},
        ["old-times"],
        "leave out rows whose time is unknown",
    ),
    "milliseconds taken for seconds": (
        {"rows": timed(lambda t, k: t * 1000 if k == 5 else t)},
        {"check_times": False},
        ["future-times"],
        "convert times of another unit",
    ),
    "minutes since 1970": (
        {"rows": timed(lambda t, k: t // 60)},
        {},
        ["old-times"],
        "convert times of another unit",
    ),
    "in the future": (
        {"rows": timed(lambda t, k: t + 10**9 if k == 5 else t)},
        {},
        ["future-times"],
        "name another column: prepare.time_column",
    ),
    "the order of rows, and a time": (
        {"rows": [(*row, k) for k, row in enumerate(ROWS)], "header": "user_id,item_id,created_at,n"},
        {"row_order_is_time": True},
        ["unused-time"],
        "prepare.row_order_is_time=false prepare.time_column=created_at",
    ),
    "decimal users": (
        {"rows": [(f"{u}.0", i, t) for u, i, t in ROWS]},
        {},
        ["decimal-ids"],
        "Int64",
    ),
    "one user with half of the rows": (
        {"rows": [*ROWS, *(("guest", n % ITEMS, START + 7 * n) for n in range(len(ROWS)))]},
        {},
        ["one-user"],
        "guests",
    ),
    "one item with most rows": (
        {"rows": [*ROWS, *((u, 1, t + 1) for u, _, t in ROWS)]},
        {},
        ["one-item"],
        "no item to recommend",
    ),
    "few users are left": (
        {"rows": [row for row in ROWS if row[0] % 2 or row[2] % 3600 == START % 3600]},
        {},
        ["few-users"],
        "lower prepare.min_interactions=5",
    ),
    "few users": ({"rows": ROWS[: 40 * LENGTH]}, {}, ["few-users"], "more users"),
    "most rows are filtered out": (
        {"rows": [*ROWS, *((f"once {n}", n % ITEMS, START + n) for n in range(2 * len(ROWS)))]},
        {},
        ["mostly-filtered"],
        "lower prepare.min_interactions=5",
    ),
    "no items": ({"items": False}, {}, ["no-items"], "prepare.items=FILE"),
    "half of the items are not listed": (
        {"rows": [(u, i + 12, t) for u, i, t in ROWS]},
        {},
        ["unlisted-items"],
        "prepare.items_item_column",
    ),
    "another name of the title": (
        {"items_header": "item_id,product_name"},
        {},
        ["no-titles"],
        "prepare.title_column=product_name",
    ),
    "empty titles": ({"titles": lambda i: "" if i % 2 else f"T {i}"}, {}, ["untitled-items"], "prepare.title_column"),
    "one title for all": ({"titles": lambda i: "Untitled"}, {}, ["same-titles"], "prepare.title_column"),
    "a bad row": ({"rows": [*ROWS, ("u", "", START)]}, {}, ["rejected-rows"], "prepare.max_bad_share"),
    "rows twice": ({"rows": [*ROWS, *ROWS[:100]]}, {}, ["exact-duplicates"], "finer time"),
    "sorted by id": (
        {"rows": [(u, i, START + i) for u, i, _ in ROWS]},
        {"check_order": False},
        ["order-of-ids"],
        "real times",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_misunderstood_data_give_their_warnings(case: str, tmp_path: Path) -> None:
    written, options, expected, fix = CASES[case]
    profile, refusal = profiled(table(tmp_path, **written), **options)
    assert refusal is None
    assert names(profile) == expected
    assert fix in profile.warnings[0].fix


REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "other names of columns": (
        {"header": "customer,product_code,order_date"},
        ["missing-column", "missing-column", "missing-column"],
        "prepare.user_column=customer prepare.item_column=product_code prepare.time_column=order_date",
    ),
    "no header": (
        {"header": f"7,3,4,{START}", "rows": [(u, i, 4, t) for u, i, t in ROWS]},
        ["no-header"],
        "name the columns in order: prepare.columns=[user_id, item_id, column_3, timestamp]",
    ),
    "day first": (
        {"rows": timed(lambda t, k: moment(t, "%d/%m/%Y %H:%M"))},
        ["time-format"],
        "'prepare.time_format=%d/%m/%Y %H:%M'",
    ),
    "day or month first": (
        {"rows": timed(lambda t, k: moment(t - 86400 * 10, "%m.%d.%Y"))},
        ["time-format"],
        "'prepare.time_format=%d.%m.%Y', or 'prepare.time_format=%m.%d.%Y'",
    ),
    "two tables of any name": (
        {"header": "user_id,track_id,played_at_date", "name": "plays.csv"},
        ["unnamed-interactions"],
        "prepare.source={folder}/plays.csv prepare.item_column=track_id prepare.time_column=played_at_date",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_source_shows_its_columns_and_what_to_set(case: str, tmp_path: Path) -> None:
    written, expected, fix = REFUSED[case]
    table(tmp_path, **written)
    if case == "two tables of any name":
        (tmp_path / "items.csv").rename(tmp_path / "tracks.csv")
    profile, refusal = profiled(tmp_path)
    assert refusal is not None
    assert names(profile) == expected
    assert " ".join(warning.fix for warning in profile.warnings) == fix.format(folder=tmp_path)
    assert all(column.first for found in profile.tables for column in found.columns)


def test_the_suggested_settings_read_the_table(tmp_path: Path) -> None:
    table(tmp_path, rows=timed(lambda t, k: moment(t, "%d/%m/%Y %H:%M:%S")), header="customer,item_id,bought_time")
    options: dict[str, str] = {}
    for _ in range(2):  # columns, then the format of the times
        for warning in profiled(tmp_path, **options)[0].warnings:
            key, _, value = warning.fix.strip("'").partition("=")
            options[key.removeprefix("prepare.")] = value
    profile, refusal = profiled(tmp_path, **options)
    assert (names(profile), refusal) == ([], None)
    assert profile.times is not None
    assert (profile.times.first, profile.times.last) == ("2023-11-14 22:13:20", "2023-11-19 21:18:20")


def test_times_are_shown_as_written_and_as_read(tmp_path: Path) -> None:
    rows = [("", 1, START), ("u", 2, f"{START}.25"), ("u", 3, START + 86_400), ("u", 4, START + 40 * 86_400)]
    profile, _ = profiled(table(tmp_path, rows=rows, items=False), min_interactions=1, max_bad_share=0.5)
    assert [(found.written, found.read) for found in profile.time_examples] == [
        (f"{START}.25", "2023-11-14 22:13:20.25"),
        (str(START + 86_400), "2023-11-15 22:13:20"),
        (str(START + 40 * 86_400), "2023-12-24 22:13:20"),
    ]
    assert profile.times is not None
    assert (profile.times.period, profile.times.starts[0], profile.times.starts[-1]) == (
        "day",
        "2023-11-14",
        "2023-12-24",
    )
    assert (len(profile.times.counts), sum(profile.times.counts), profile.times.counts[1]) == (41, 3, 1)


@pytest.mark.parametrize(
    ("days", "period", "starts"),
    [
        (91, "day", ["2023-11-14", "2024-02-13"]),
        (92, "month", ["2023-11", "2024-02"]),
        (400, "month", ["2023-11", "2024-12"]),
        (30_000, "year", ["2023", "2106"]),
    ],
)
def test_rows_are_counted_by_the_finest_fitting_period(
    days: int, period: str, starts: list[str], tmp_path: Path
) -> None:
    rows = [("u", 1, START), ("u", 2, START + 1), ("u", 3, START + days * 86_400)]
    profile, _ = profiled(table(tmp_path, rows=rows, items=False), min_interactions=1, check_times=False)
    assert profile.times is not None
    assert profile.times.period == period
    assert [profile.times.starts[0], profile.times.starts[-1]] == starts
    assert (profile.times.counts[0], profile.times.counts[-1], sum(profile.times.counts)) == (2, 1, 3)


def test_today_is_not_the_future(tmp_path: Path) -> None:
    midnight = datetime.combine(date.today() + timedelta(days=1), datetime.min.time(), UTC)
    times = [int(midnight.timestamp()) + seconds for seconds in (-2, -1, 0, 1, 2)]
    profile, _ = profiled(table(tmp_path, rows=[("u", n, time) for n, time in enumerate(times)]), min_interactions=1)
    assert profile.times is not None
    assert profile.times.in_future == 3


LETTERS = st.sampled_from("abcdef")


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(LETTERS, LETTERS, st.integers(START, START + 50)), min_size=1, max_size=60),
    bad=st.integers(0, 3),
    listed=st.sets(LETTERS, min_size=1),
    minimum=st.integers(1, 3),
)
def test_the_card_counts_what_is_imported(rows: list[Row], bad: int, listed: set[str], minimum: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = table(Path(name), rows=[*rows, *[("", "a", START)] * bad], items=False)
        (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"{item},T" for item in sorted(listed))]))
        config = PrepareConfig(source=name, min_interactions=minimum, max_bad_share=1, check_order=False)
        profile, refusal = profiled(folder, **config.model_dump(exclude_unset=True))
        if refusal is not None:
            with pytest.raises(DataError, match=re.escape(refusal)):
                import_dataset(config, seed=0, work=folder, rejects=Rejects(100))
            return
        dataset = import_dataset(config, seed=0, work=folder, rejects=Rejects(100))
    card, frame = json.loads(json.dumps(profile.card())), dataset.interactions.frame
    assert card == json.loads(json.dumps(dataset.card))
    assert Profile.of_card(card) == profile
    distinct = list(dict.fromkeys(rows))
    assert card["rows"] == len(rows) + bad == len(distinct) + card["exact_duplicates"] + bad
    before, after = profile.before, profile.after
    assert before is not None
    assert after is not None
    assert profile.items is not None
    assert (before.interactions, before.users) == (len(distinct), len({user for user, _, _ in distinct}))
    assert profile.items.matched == len(listed & {item for _, item, _ in distinct})
    assert (after.interactions, after.users) == (len(frame), frame["user_id"].n_unique())
    assert after.items == len(dataset.catalog) == frame["item_id"].n_unique()
    assert after.repeats == len(frame) - frame.select("user_id", "item_id").n_unique()
    lengths = frame.group_by("user_id").len()["len"]
    assert (after.history[0], after.history[100]) == (lengths.min(), lengths.max())
    for found in after.bins:
        assert found.users == lengths.filter(pl.Series(lengths).is_between(found.low, found.high)).len()
