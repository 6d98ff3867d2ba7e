"""Raw Amazon reviews and metadata, two files of JSON lines.

Reads the releases of 2014 (McAuley et al.; metadata as Python literals), 2018 (Ni et al.) and 2023 (Hou et al.). A
file whose name starts with `meta` is the metadata, the other one the reviews.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recsys.data.events import Events
from recsys.data.jsonlines import Line, read_lines
from recsys.data.profile import INTERACTIONS, ITEMS, Role, TimeExample
from recsys.data.profiling import SHOWN, note_file
from recsys.data.raw import MARKS, RAW_SCHEMA, RawData, Reading, Rejects
from recsys.data.texts import join_texts, strip_markup
from recsys.errors import DataError

BLOCK = 100_000  # lines converted to columns at once


class Release(NamedTuple):
    """The JSON keys of one release: those of a review; in metadata the item, and column -> keys."""

    user: str
    item: str
    time: str
    rating: str
    meta_item: str
    texts: dict[str, tuple[str, ...]]


class _Review(NamedTuple):
    user_id: str
    item_id: str
    timestamp: int
    rating: float | None
    line: int


_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "item_id": pl.String(),
        "timestamp": pl.Int64(),
        "rating": pl.Float32(),
        "line": pl.Int64(),
    }
)
_COLUMNS = ("rating", "timestamp")  # that conditions and weights may name
_OLD_TEXTS = {
    "title": ("title",),
    "brand": ("brand",),
    "categories": ("categories", "category"),
    "description": ("description",),
}
RELEASES = {
    "amazon-2014": Release("reviewerID", "asin", "unixReviewTime", "overall", "asin", _OLD_TEXTS),
    "amazon-2018": Release("reviewerID", "asin", "unixReviewTime", "overall", "asin", _OLD_TEXTS),
    "amazon-2023": Release(
        "user_id",
        "parent_asin",
        "timestamp",
        "rating",
        "parent_asin",
        {"title": ("title",), "brand": ("store",), "categories": ("categories",), "description": ("description",)},
    ),
}


def detect_release(reviews: Path) -> str:
    """The release of a file of reviews, from its first object.

    Raises:
        DataError: the file is of no known release.
    """
    keys = _first(reviews).keys()
    for name, release in reversed(RELEASES.items()):
        if {release.user, release.item, release.time} <= keys and (name != "amazon-2018" or "verified" in keys):
            return name
    raise DataError(
        f"{reviews}: the first line is no review of a known Amazon release (found {', '.join(keys) or 'no object'}); "
        "set prepare.kind, or write the data as interactions.csv"
    )


def read_amazon(reviews: Path, metadata: Path | None, release: Release, reading: Reading) -> RawData:
    """Reviews as interactions, metadata as items.

    Raises:
        DataError: a file is empty, cut off, or has too many bad lines.
    """
    rejects, tracker = reading.rejects, reading.tracker
    events = Events.of(reading.config)
    events.require(_COLUMNS, reviews)
    roles: dict[str, Role] = {release.rating: events.roles.get("rating", "ignored")}
    roles |= {release.user: "user id", release.item: "item id", release.time: "time"}
    note_file(reading.profile, INTERACTIONS, reviews, "JSON lines", _first(reviews), roles)
    rows = _reviews(reviews, release, rejects)
    batches = iter(lambda: list(islice(rows, BLOCK)), [])
    blocks = [_to_frame(batch) for batch in tracker.track(batches, f"reading {reviews.name}")]
    if not blocks:
        raise DataError(f"{reviews} holds no usable review; look at the file, or set prepare.kind")
    raw = _judged(pl.concat(blocks), events, reviews, rejects)
    reading.check(reviews, raw.interactions.height)
    times = [str(time) for time in raw.interactions["timestamp"].head(SHOWN)]
    reading.profile.time_examples = [TimeExample(time, time) for time in times]
    if metadata is None:
        return raw
    texts: dict[str, Role] = {key: "text" for keys in release.texts.values() for key in keys}
    roles = {**texts, release.meta_item: "item id", "title": "title"}
    note_file(reading.profile, ITEMS, metadata, "JSON lines", _first(metadata), roles)
    described = list(tracker.track(_items(metadata, release, rejects), f"reading {metadata.name}"))
    reading.check(metadata, len(described))
    table = pl.DataFrame(described, schema=dict.fromkeys(("item_id", *release.texts), pl.String), orient="row")
    items = table.unique("item_id", keep="first", maintain_order=True)
    return raw._replace(items=items, notes=raw.notes | {"repeated_items": table.height - items.height})


def _first(path: Path) -> dict[str, Any]:
    line = next(read_lines(path, rejects=Rejects(0)), None)
    return line.value if line else {}


def _judged(frame: pl.DataFrame, events: Events, path: Path, rejects: Rejects) -> RawData:
    """The reviews that are used, with the columns that the settings ask for."""
    if not events.columns:
        return RawData(frame.select(*RAW_SCHEMA), None, {}, not_selected=0)
    judged = events.judge(frame.select(events.columns), path)
    frame = frame.with_columns(*judged.marks(events), reason=judged.reasons).filter(judged.selected)
    for line, rating, reason in frame.filter(pl.col("reason").is_not_null()).select("line", "rating", "reason").rows():
        rejects.add(path, line, reason, f"rating {rating}")
    marks = [name for name in MARKS if name in frame.columns]
    usable = frame.filter(pl.col("reason").is_null()).select(*RAW_SCHEMA, *marks)
    return RawData(usable, None, judged.notes(), not_selected=len((~judged.selected).arg_true()))


def _reviews(path: Path, release: Release, rejects: Rejects) -> Iterator[_Review]:
    for line in read_lines(path, rejects=rejects):
        user, item, time = (line.value.get(key) for key in (release.user, release.item, release.time))
        reason = _rejection(user, item, time)
        if reason:
            rejects.add(path, line.number, reason, f"{user},{item},{time}")
        else:
            assert time is not None
            rating = line.value.get(release.rating)
            stars = float(rating) if isinstance(rating, int | float) else None
            yield _Review(str(user), str(item), int(time), stars, line.number)


def _rejection(user: Any, item: Any, time: Any) -> str | None:
    if not user:
        return "missing user id"
    if not item:
        return "missing item id"
    if time is None:
        return "missing time"
    try:
        exact = int(time) == float(time)  # no decimals, which integers would lose
    except (ValueError, TypeError, OverflowError):
        exact = False
    if not exact:
        return "unparsable time"
    return None


def _to_frame(block: list[_Review]) -> pl.DataFrame:
    columns = dict(zip(_Review._fields, zip(*block, strict=True), strict=True))
    return pl.DataFrame(columns, schema=_SCHEMA).cast(RAW_SCHEMA)


def _items(path: Path, release: Release, rejects: Rejects) -> Iterator[tuple[str | None, ...]]:
    for line in read_lines(path, rejects=rejects):
        item = line.value.get(release.meta_item)
        if item:
            yield (str(item), *(_text(line, column, keys) for column, keys in release.texts.items()))
        else:
            rejects.add(path, line.number, "missing item id", str(line.value))


def _text(line: Line, column: str, keys: tuple[str, ...]) -> str | None:
    value = next((line.value[key] for key in keys if line.value.get(key)), None)
    if column == "description" and isinstance(value, list):
        value = " ".join(str(part) for part in value)
    return strip_markup(join_texts(value, path=column == "categories"))
