"""Cleaning by hand-computed examples, and against slow but obvious versions of the same rules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.cleaning import check_order, encode, k_core, sort, sorted_by_id_share, time_unit, without_repeats
from recsys.data.dataset import load_dataset
from recsys.data.raw import RAW_SCHEMA
from recsys.data.times import Clock
from recsys.errors import DataError

Row = tuple[str, str, int]
TIMES = st.sampled_from([0, 1, 2, 2**62, -(2**62)])
ROWS = st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcd"), TIMES), min_size=1, max_size=40)


def raw(rows: list[Row]) -> pl.DataFrame:
    strings = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=strings, orient="row").cast(RAW_SCHEMA)


def cleaned(rows: list[Row], minimum: int) -> list[Row]:
    coded = k_core(without_repeats(sort(encode(raw(rows))))[0], minimum)
    users, items = coded.user_ids.gather(coded.users), coded.item_ids.gather(coded.items)
    return list(zip(users.to_list(), items.to_list(), coded.times.tolist(), strict=True))


def naive(rows: list[Row], minimum: int) -> list[Row]:
    found = list(dict.fromkeys(rows))
    while True:
        users, items = [row[0] for row in found], [row[1] for row in found]
        kept = [row for row in found if users.count(row[0]) >= minimum and items.count(row[1]) >= minimum]
        if kept == found:
            break
        found = kept
    first = list(dict.fromkeys(row[0] for row in rows))
    return sorted(found, key=lambda row: (first.index(row[0]), row[2]))


@settings(deadline=None, max_examples=25)
@given(rows=ROWS, minimum=st.integers(1, 4))
def test_cleaning_is_that_of_the_naive_rules(rows: list[Row], minimum: int) -> None:
    expected = naive(rows, minimum)
    if expected:
        assert cleaned(rows, minimum) == expected
    else:
        with pytest.raises(DataError, match=r"prepare\.min_interactions"):
            cleaned(rows, minimum)


def test_exact_duplicates_go_and_later_repeats_stay(folder: Callable[..., Path]) -> None:
    text = "user_id,item_id,timestamp\nu,a,1\nu,b,1\nu,a,1\nu,a,9\n"
    dataset = load_dataset(folder(interactions_csv=text), min_interactions=1)
    assert dataset.interactions.frame["item_id"].to_list() == ["a", "b", "a"]
    assert (dataset.card["exact_duplicates"], dataset.card["repeated_pairs"]) == (1, 1)
    assert dataset.card["tied_share"] == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([0, 1, 2], "positions"),
        ([1, 2, 3], "positions"),
        ([0, 5, 6], "seconds"),
        ([978300019, 978300055, 978300056], "seconds"),
        ([1600000000123, 1600000000124, 1600000000125], "milliseconds"),
        ([1600000000000123, 1600000000000124, 1600000000000125], "microseconds"),
    ],
)
def test_units_of_time(times: list[int], unit: str) -> None:
    rows = [(user, item, time) for user in "uv" for item, time in zip("abc", times, strict=True)]
    assert time_unit(sort(encode(raw(rows))), Clock()) == unit


def test_users_sorted_by_item_id_are_refused() -> None:
    rng = np.random.default_rng(0)
    picks = [rng.choice(200, 6, replace=False).tolist() for _ in range(40)]

    def rows(sequences: list[list[int]]) -> list[Row]:
        return [(f"u{user}", str(item), t) for user, items in enumerate(sequences) for t, item in enumerate(items)]

    def check(sequences: list[list[int]]) -> None:
        check_order(sorted_by_id_share(sort(encode(raw(rows(sequences))))))

    ordered = [sorted(pick) for pick in picks]
    check(picks)
    check(ordered[:35] + picks[35:])
    check(ordered[:19])  # too few users to judge by
    refused = "of the users have their interactions sorted by item id"
    with pytest.raises(DataError, match=f"100% {refused}"):
        check(ordered)
    with pytest.raises(DataError, match=f"100% {refused}"):
        check([pick[::-1] for pick in ordered])
    with pytest.raises(DataError, match=f"95% {refused}"):
        check(ordered[:38] + picks[38:])


def test_a_dataset_of_one_user_is_accepted(folder: Callable[..., Path]) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"ü,i{n},{n * 60}\n" for n in range(5))
    dataset = load_dataset(folder(interactions_csv=text), min_interactions=1)
    assert dataset.interactions.frame["split"].to_list() == [0, 0, 0, 1, 2]
    assert len(dataset.catalog) == 5
