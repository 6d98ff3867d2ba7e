"""Times of every kind of column: exact, in order, and refused where they are ambiguous."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.times import Clock, calendar_times, implausible, read_times
from recsys.errors import ConfigError, DataError

MOMENT = 1_700_000_000  # 2023-11-14 22:13:20 UTC


def read(values: list[Any], *, dtype: Any = None, time_format: str | None = None) -> tuple[list[int | None], Clock]:
    times = read_times(pl.Series("t", values, dtype), time_format=time_format)
    return times.values.to_list(), times.clock


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14 22:13:20",
        "2023-11-14T22:13:20",
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20.000Z",
        "2023-11-14 22:13:20 UTC",
        "2023-11-14 22:13:20.0 UTC",
        "2023-11-14 22:13:20+00:00",
        "2023-11-14 22:13:20+0000",
        "2023-11-14 22:13:20+00",
        "2023-11-14 22:13:20 +0000 UTC",
        "2023-11-15T00:13:20+02:00",
        "2023-11-14T22:13:20+00:00[UTC]",
        "2023/11/14 22:13:20",
        "2023.11.14 22:13:20",
        "2023-11-14 22:13:20,000",
        "20231114T221320Z",
        "2023-11-14 10:13:20 PM",
        "Tue, 14 Nov 2023 22:13:20 GMT",
        "14 Nov 2023 22:13:20",
        "14-Nov-2023 22:13:20",
        "November 14, 2023 22:13:20",
        "Nov 14, 2023, 10:13:20 PM",
        "Tue Nov 14 22:13:20 +0000 2023",
        "Tue Nov 14 22:13:20 2023",
    ],
)
def test_usual_dates_are_read(text: str) -> None:
    assert read([text, None, text]) == ([MOMENT * 1000, None, MOMENT * 1000], Clock("milliseconds"))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-11-14 22:13", datetime(2023, 11, 14, 22, 13, tzinfo=UTC)),
        ("2023-11-14T22:13Z", datetime(2023, 11, 14, 22, 13, tzinfo=UTC)),
        ("2023/11/14", datetime(2023, 11, 14, tzinfo=UTC)),
        ("2023-1-4", datetime(2023, 1, 4, tzinfo=UTC)),
    ],
)
def test_dates_without_seconds_or_without_a_time_are_read(text: str, moment: datetime) -> None:
    assert read([text])[0] == [round(moment.timestamp() * 1000)]


def test_dates_of_nine_decimals_are_exact_and_years_beyond_them_bad() -> None:
    found, clock = read(["2023-11-14 22:13:20.123456789", "2023-11-14T22:13:20Z", "0001-01-01 00:00:00"])
    assert (found, clock) == ([MOMENT * 10**9 + 123456789, MOMENT * 10**9, None], Clock("nanoseconds"))


@pytest.mark.parametrize(
    "text", ["14/11/2023", "11/14/2023 22:13", "05-06-2023", "14-11-20", "14.11.2023", "2023-13-14", "2023-11-14 22"]
)
def test_ambiguous_and_impossible_dates_are_not(text: str) -> None:
    assert read([text])[0] == [None]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("%d/%m/%Y %H:%M", "04/11/2023 22:13", datetime(2023, 11, 4, 22, 13)),
        ("%m/%d/%y %I:%M %p", "11/04/23 10:13 PM", datetime(2023, 11, 4, 22, 13)),
        ("%d/%m/%Y %H:%M:%S.%f", "04/11/2023 22:13:20.000250", datetime(2023, 11, 4, 22, 13, 20, 250)),
        ("%d.%m.%Y %H:%M%z", "04.11.2023 22:13+02:00", datetime(2023, 11, 4, 20, 13)),
    ],
)
def test_a_given_format_replaces_all_others(form: str, text: str, expected: datetime) -> None:
    found, clock = read([text, "2023-11-04 22:13:00"], time_format=form)
    unit = {"milliseconds": timedelta(milliseconds=1), "microseconds": timedelta(microseconds=1)}[str(clock.unit)]
    assert found == [(expected - datetime(1970, 1, 1)) // unit, None]


def test_numbers_of_a_given_format_are_dates() -> None:
    assert read([20231114], time_format="%Y%m%d") == ([1_699_920_000_000], Clock("milliseconds"))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([20231114, None], [1_699_920_000_000, None]),
        ([202311142213], [1_699_999_980_000]),
        ([20231114221320], [1_700_000_000_000]),
        ([20231114, 20231399], None),
        ([MOMENT], None),
        ([MOMENT * 1000], None),
        ([None], None),
    ],
)
def test_numbers_that_are_dates_are_found(numbers: list[int | None], expected: list[int | None] | None) -> None:
    times = calendar_times(pl.Series(numbers, dtype=pl.Int64))
    assert (times.values.to_list() if times else None) == expected


@pytest.mark.parametrize("form", ["%d/%m/%Y %H", "%d/%m/%Y %f"])
def test_an_impossible_format_is_refused(form: str) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.time_format"):
        read(["04/11/2023 22"], time_format=form)


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "scale"),
    [
        (["1700000000.1", "1700000000.25"], None, [MOMENT * 1000 + 100, MOMENT * 1000 + 250], 10**3),
        (["1700000000.0", "1.7e9"], None, [MOMENT, MOMENT], 1),
        (["1700000000.123456789"], None, [MOMENT * 10**9 + 123456789], 10**9),
        ([1700000000.5, float("nan"), 1e300], None, [MOMENT * 1000 + 500, None, None], 10**3),
        ([-0.25, 0.1], None, [-250, 100], 10**3),
        ([Decimal("1.50"), Decimal("2.00")], pl.Decimal(10, 2), [1500, 2000], 10**3),
        ([Decimal("3.00")], pl.Decimal(10, 2), [3], 1),
        ([2**63 + 1, 5], pl.UInt64, [None, 5], 1),
    ],
)
def test_decimals_are_kept(values: list[Any], dtype: Any, expected: list[int], scale: int) -> None:
    assert read(values, dtype=dtype) == (expected, Clock(scale=scale))


@pytest.mark.parametrize("values", [["1700000000000.1234567891"] * 2, [1.5e17 + 0.0, 0.1234567890123]])
def test_decimals_that_no_integer_holds_are_refused(values: list[Any]) -> None:
    with pytest.raises(DataError, match="more digits than 64-bit integers hold"):
        read(values)


@pytest.mark.parametrize(
    ("unit", "step", "named"),
    [("ms", 1, "milliseconds"), ("us", 1, "microseconds"), ("us", 1000, "milliseconds"), ("ns", 1, "nanoseconds")],
)
def test_datetimes_keep_what_they_have(unit: Any, step: int, named: str) -> None:
    column = pl.Series("t", np.arange(3) * step).cast(pl.Datetime(unit, "UTC"))
    times = read_times(column)
    assert times.clock == Clock(named)  # type: ignore[arg-type]
    assert times.values.to_list() == [0, 1, 2]


def test_a_column_is_of_the_kind_that_most_of_its_rows_have() -> None:
    date = "2023-11-14 22:13:20"
    assert read(["0", date, date])[0] == [None, MOMENT * 1000, MOMENT * 1000]
    assert read([date, "5", "6.5"]) == ([None, 5000, 6500], Clock(scale=1000))


@pytest.mark.parametrize("values", [[True], [[1]], [timedelta(1)]])
def test_columns_that_hold_no_times_are_refused(values: list[Any]) -> None:
    with pytest.raises(DataError, match="times are whole or decimal numbers, or dates with the year first"):
        read(values)


@pytest.mark.parametrize(
    ("values", "clock", "expected"),
    [
        ([MOMENT, MOMENT * 1000, MOMENT], Clock(), [1]),
        ([MOMENT * 1000, MOMENT, MOMENT * 1000], Clock(), [1]),
        ([MOMENT * 10**6, MOMENT * 10**9, MOMENT * 10**6], Clock(), [1]),
        ([MOMENT, 0, MOMENT, -1], Clock(), [1, 3]),
        ([MOMENT, 253402300799, MOMENT], Clock(), [1]),  # the year 9999
        ([MOMENT * 1000, 0, MOMENT * 1000], Clock("milliseconds"), [1]),
        ([MOMENT * 1000, MOMENT * 10**6, MOMENT * 1000], Clock(scale=1000), [1]),
        ([0, 1, 2, 3], Clock(), []),
        ([10**7, 5 * 10**7, 9 * 10**7, 2 * 10**8], Clock(), []),  # seconds since a start: no jump
        ([9 * 10**7, 2 * 10**8, MOMENT], Clock(), []),  # 1972, 1976, 2023
        ([None, MOMENT], Clock(), []),
        ([None], Clock(), []),
    ],
)
def test_times_of_another_unit_and_placeholders_are_found(
    values: list[int | None], clock: Clock, expected: list[int]
) -> None:
    assert implausible(pl.Series(values, dtype=pl.Int64), clock).arg_true().to_list() == expected


MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1))
FORMS = st.sampled_from(
    ["%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y/%m/%d %H:%M:%S.%f UTC", "%Y-%m-%d %H:%M:%S.%f+0000"]
)


@settings(deadline=None, max_examples=50)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=8), forms=st.lists(FORMS, min_size=8, max_size=8))
def test_dates_of_any_form_are_exact(moments: list[datetime], forms: list[str]) -> None:
    found, clock = read([moment.strftime(form) for moment, form in zip(moments, forms, strict=False)])
    per_second = {"milliseconds": 10**3, "microseconds": 10**6}[str(clock.unit)]
    micros = [(moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) for moment in moments]
    assert [value * 10**6 // per_second for value in found if value is not None] == micros


@settings(deadline=None, max_examples=100)
@given(st.lists(st.decimals(-(10**9), 10**9, places=9), min_size=1, max_size=8))
def test_decimal_texts_are_exact(numbers: list[Decimal]) -> None:
    found, clock = read([str(number) for number in numbers])
    assert [Decimal(value or 0) / clock.scale for value in found] == numbers


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(1e8, 2e9) | st.floats(-1, 1).map(lambda x: round(x, 12)), min_size=1, max_size=8))
def test_floats_keep_their_order_or_are_refused(numbers: list[float]) -> None:
    try:
        found, _ = read(numbers, dtype=pl.Float64)
    except DataError:
        return
    assert all(
        (a < b) == (x < y) and (a == b) == (x == y)
        for a, x in zip(numbers, found, strict=True)
        for b, y in zip(numbers, found, strict=True)
        if x is not None and y is not None
    )
    assert 2 * found.count(None) <= len(found)  # what does not fit is a bad row
