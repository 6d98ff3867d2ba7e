"""Times as integers that lose nothing: of a whole column, whatever its type.

Numbers stay what they are; those with decimals are multiplied by the smallest power of 1000 that makes all of them
whole. Dates become milliseconds since 1970, or micro- or nanoseconds where one of them needs it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import polars as pl

from recsys.errors import ConfigError, DataError

TimeUnit = Literal[
    "positions", "seconds", "milliseconds", "microseconds", "nanoseconds", "picoseconds", "femtoseconds", "attoseconds"
]
UNITS: tuple[TimeUnit, ...] = (
    "seconds",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "picoseconds",
    "femtoseconds",
    "attoseconds",
)
PER_SECOND: dict[TimeUnit, int] = {unit: 1000**power for power, unit in enumerate(UNITS)}
EPOCH_UNITS = UNITS[:4]  # those that numbers since 1970 come in
EARLIEST, LARGEST_SECONDS = 10**8, 10**11  # March 1973 and the year 5138; as milliseconds, January 1970 and March 1973
ACCEPTED = (
    "whole or decimal numbers, or dates with the year first (2023-11-14, 2023/11/14 22:13, 2023-11-14T22:13:20.5Z, "
    "2023-11-14 22:13:20+01:00) or with the month's name (14 Nov 2023 22:13)"
)
_DECIMALS = 18  # of a 64-bit integer
_SCALES = range(0, _DECIMALS + 1, 3)
_PROBED_ROWS = 1000
_GAP = 10  # between times that are of one unit and those that are not

_CLOCKS = ("", " %H:%M", " %H:%M:%S%.f", " %I:%M:%S %p", " %I:%M %p")
_YEAR_FIRST = tuple(f"%Y-%m-%d{clock}{zone}" for clock in _CLOCKS for zone in ("", "%#z"))
_AS_WRITTEN = (*_YEAR_FIRST, *(form.replace(" ", "T", 1) for form in _YEAR_FIRST if " " in form))
_YEAR = r"^\d{4}-"
_NAMED_MONTH = (
    *(f"{day}{clock}{zone}" for day in ("%d %B %Y", "%B %d %Y") for clock in _CLOCKS for zone in ("", "%#z")),
    "%a %b %d %H:%M:%S%#z %Y",
    "%a %b %d %H:%M:%S %Y",
)
_CANONICAL = (  # patterns and what they become, so that few formats are left
    (r"^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})", "$1-$2-$3 $4:$5:$6"),
    (r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[Tt]|\s+|$)", "$1-$2-$3 "),
    (r"(\d{2}:\d{2}),(\d+)", "$1.$2"),
    (r"^(?:[A-Z][a-z]{2,8}),\s*", ""),
    (r"^(\d{1,2})-([A-Za-z]{3,9})-(\d{4})", "$1 $2 $3"),
    (r"([A-Za-z]{3}\s+\d{1,2}),", "$1"),
    (r"( \d{4}),", "$1"),
    (r"(Z|[+-]\d{2}:?\d{2})\[[^\]]*\]$", "$1"),
    (r"([+-]\d{2}:?\d{2})\s*(?:UTC|GMT)$", "$1"),
    (r"\s*(?:Z|z|UTC|GMT)$", "+00:00"),
    (r"(:\d{2}(?:\.\d+)?)\s+([+-]\d{2}(?::?\d{2})?)( |$)", "$1$2$3"),
    (r"\s+", " "),
)


class Clock(NamedTuple):
    """What stored times mean: their unit where it is known, and the number that the source's were multiplied by."""

    unit: TimeUnit | None = None
    scale: int = 1


class Times(NamedTuple):
    """A column of times: Int64, null where a value is none."""

    values: pl.Series
    clock: Clock


def read_times(column: pl.Series, *, time_format: str | None = None) -> Times:
    """The times of a column of numbers, dates or texts; null where a value is missing or no time of the column's kind.

    Of texts, the kind of most rows - numbers or dates - is that of the column. Dates without a zone are UTC.
    `time_format` (strptime) replaces all other formats.

    Raises:
        ConfigError: polars refuses `time_format`.
        DataError: the type holds no times, or its decimals do not fit 64 bits.
    """
    dtype = column.dtype
    if time_format is not None and not dtype.is_temporal():
        return _dates(_formatted(column.cast(pl.String).str.strip_chars(), time_format))
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        return _dates(column if isinstance(dtype, pl.Datetime) else column.cast(pl.Datetime("ms")))
    if dtype.is_integer():
        return Times(column.cast(pl.Int64, strict=False), Clock())
    if dtype.is_float():
        return _floats(column.cast(pl.Float64))
    if dtype.is_decimal():
        return _decimals(column.cast(pl.Decimal(38, _DECIMALS), strict=False))
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return _texts(column.cast(pl.String).str.strip_chars())
    raise DataError(f"column '{column.name}' is {dtype}; times are {ACCEPTED}")


def calendar_times(values: pl.Series) -> Times | None:
    """Whole numbers that are dates, such as 20231114 or 20231114221320; None where one of them is none."""
    first, last = values.min(), values.max()
    for form, digits in (("%Y%m%d", 8), ("%Y%m%d%H%M", 12), ("%Y%m%d%H%M%S", 14)):
        lowest, highest = (int(year) * 10 ** (digits - 4) for year in ("1900", "2101"))
        if isinstance(first, int) and isinstance(last, int) and lowest <= first and last < highest:
            times = read_times(values, time_format=form)
            return times if times.values.null_count() == values.null_count() else None
    return None


def implausible(values: pl.Series, clock: Clock) -> pl.Series:
    """Which times (Int64, nulls allowed) are, by a jump in magnitude, of another unit than most, or a placeholder.

    Times are told apart by their magnitude as in `LARGEST_SECONDS`; an odd one counts where it is also ten times as
    far from 1970, or as near to it, as all of those of the magnitude that most have.
    """
    base = clock.scale * (PER_SECOND[clock.unit] if clock.unit else 1)
    bounds = [bound for power in range(4) if (bound := EARLIEST * base * 1000**power) < 2**63]
    magnitude = pl.sum_horizontal(pl.col("time") >= bound for bound in bounds)
    frame = pl.DataFrame({"time": values})
    first, last = values.min(), values.max()
    assert first is None or (isinstance(first, int) and isinstance(last, int))
    if first is None or sum(first >= bound for bound in bounds) == sum(last >= bound for bound in bounds):
        return pl.repeat(False, len(values), eager=True)
    known = frame.with_columns(magnitude=magnitude).drop_nulls("time")
    common = known["magnitude"].value_counts(sort=True)["magnitude"][0]
    usual = known.filter(magnitude=common)["time"]
    nearest, farthest = int(usual.min()), int(usual.max())  # type: ignore[arg-type]
    below = (magnitude < common) & (pl.col("time") <= nearest // _GAP)
    above = (magnitude > common) & (pl.col("time") // _GAP >= farthest)
    return frame.select((below | above).fill_null(False)).to_series()


def magnitudes(values: pl.Series) -> dict[str, int]:
    """Unit by magnitude -> number of times, most first; for messages."""
    size = pl.col("time").abs()
    bounds = (EARLIEST, *(LARGEST_SECONDS * 1000**power for power in range(len(EPOCH_UNITS) - 1)))
    names = ("small numbers", *EPOCH_UNITS)
    unit = pl.coalesce(
        *(pl.when(size < bound).then(pl.lit(name)) for bound, name in zip(bounds, names, strict=False)),
        pl.lit(names[-1]),
    )
    units = pl.DataFrame({"time": values}).select(unit=unit)
    counted = units["unit"].value_counts(sort=True)
    return dict(zip(counted["unit"].to_list(), counted["count"].to_list(), strict=True))


def _texts(texts: pl.Series) -> Times:
    """Numbers or dates, whichever are more."""
    numbers = texts.cast(pl.Decimal(38, _DECIMALS), strict=False)
    if numbers.null_count() == texts.null_count():
        return _decimals(numbers)
    dates = _parsed(texts.to_frame("text").select(pl.when(pl.lit(numbers).is_null()).then("text")).to_series())
    if dates.count() > numbers.count():
        return _dates(dates)
    return _decimals(numbers)


def _decimals(numbers: pl.Series) -> Times:
    """Decimals of `_DECIMALS` digits after the point, at the smallest scale that needs none of them."""
    value = pl.col("value")
    digits = pl.DataFrame({"value": numbers.to_physical()})
    for decimals in _SCALES:
        divisor = pl.lit(10 ** (_DECIMALS - decimals), pl.Int128)
        if not digits.select((value % divisor != 0).any()).item():
            break
    return _fitting(digits.select((value // divisor).cast(pl.Int64, strict=False)).to_series(), numbers, decimals)


def _floats(numbers: pl.Series) -> Times:
    """Each float as the shortest decimal number that is read back as that float."""
    column = numbers.to_frame("value").select(pl.when(pl.col("value").abs() < 2.0**63).then("value"))
    value, whole = pl.col("value"), pl.col("value").floor()
    for decimals in _SCALES:
        power = 10.0**decimals
        fraction = ((value - whole) * power).round()
        if column.select((whole + fraction / power == value).all()).item():
            scaled = whole.cast(pl.Int128, strict=False) * pl.lit(10**decimals, pl.Int128) + fraction.cast(pl.Int128)
            exact = column.select(scaled.cast(pl.Int64, strict=False)).to_series()
            return _fitting(exact, column.to_series().rename(numbers.name), decimals)
    raise _too_fine(numbers.name)


def _fitting(values: pl.Series, numbers: pl.Series, decimals: int) -> Times:
    """Refuses a scale at which most of the numbers do not fit 64 bits."""
    if decimals and values.count() <= numbers.count() // 2:
        raise _too_fine(numbers.name)
    return Times(values.rename(numbers.name), Clock(scale=10**decimals))


def _too_fine(name: str) -> DataError:
    return DataError(
        f"column '{name}': the times have more digits than 64-bit integers hold; round them to {_DECIMALS} digits"
    )


def _parsed(texts: pl.Series) -> pl.Series:
    """Dates with the year first or a named month, as a Datetime without zone; null where a text is neither."""
    unit = _resolution(texts)
    dates = pl.Series(texts.name, [None], pl.Datetime(unit)).new_from_index(0, len(texts))
    likeliest = _likeliest_first(texts.head(_PROBED_ROWS), _AS_WRITTEN)[:1]
    dates = _filled(dates, texts, likeliest, texts.str.contains(_YEAR))
    rows = (dates.is_null() & texts.is_not_null()).arg_true()
    if not len(rows):
        return dates
    others = texts.gather(rows)
    for pattern, form in _CANONICAL:
        others = others.str.replace_all(pattern, form)
    others = others.str.strip_chars()
    year_first = others.str.contains(_YEAR)
    found = dates.gather(rows)
    for forms, eligible in (
        (_YEAR_FIRST, year_first),
        (_NAMED_MONTH, others.str.contains("[A-Za-z]{3}") & ~year_first),
    ):
        found = _filled(found, others, _likeliest_first(others.filter(eligible).head(_PROBED_ROWS), forms), eligible)
    return dates.scatter(rows, found)


def _filled(dates: pl.Series, texts: pl.Series, forms: list[str], eligible: pl.Series) -> pl.Series:
    """The dates, and those that the eligible texts of the others are in the first format that reads them."""
    for form in forms:
        rows = (eligible & dates.is_null()).fill_null(False).arg_true()
        if not len(rows):
            break
        dates = dates.scatter(rows, _strptime(texts.gather(rows), form, dates.dtype.time_unit))  # type: ignore[attr-defined]
    return dates


def _likeliest_first(sample: pl.Series, forms: tuple[str, ...]) -> list[str]:
    return sorted(forms, key=lambda form: -_strptime(sample, form, "us").count())


def _strptime(texts: pl.Series, form: str, unit: Literal["us", "ns"]) -> pl.Series:
    """Datetimes in UTC without zone; with "ns", null outside of the years that it can hold."""
    dates = texts.str.to_datetime(form, strict=False, time_unit=unit).dt.replace_time_zone(None)
    if unit == "us":
        return dates
    year = texts.str.to_datetime(form, strict=False, time_unit="us").dt.year()
    return pl.select(pl.when(year.is_between(1678, 2261)).then(dates)).to_series()


def _resolution(texts: pl.Series) -> Literal["us", "ns"]:
    """Whether a text has more than six digits of a second."""
    return "ns" if texts.str.contains(r"[.,]\d{6}\d*[1-9]").any() else "us"


def _formatted(texts: pl.Series, form: str) -> pl.Series:
    form = form.replace(".%f", "%.f")  # Python's notation
    if re.search("%f", form):
        raise ConfigError(f"prepare.time_format={form!r}: write %.f for the decimals of a second, as in %H:%M:%S%.f")
    try:
        return _strptime(texts, form, _resolution(texts))
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"prepare.time_format={form!r} is no format of dates ({reason}); an example is %d/%m/%Y %H:%M"
        ) from error


def _dates(dates: pl.Series) -> Times:
    assert isinstance(dates.dtype, pl.Datetime)
    return _shortened(dates.cast(pl.Int64), {"ms": 1, "us": 2, "ns": 3}[dates.dtype.time_unit])


def _shortened(values: pl.Series, power: int) -> Times:
    """Times in the power of a thousandth second, in the coarsest unit from milliseconds on that holds all of them."""
    for coarser in range(1, power):
        divisor = 1000 ** (power - coarser)
        if not (values % divisor != 0).any():
            return Times(values // divisor, Clock(UNITS[coarser]))
    return Times(values, Clock(UNITS[power]))
