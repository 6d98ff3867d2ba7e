"""Tables drawn at random - types, separators, encodings, packing, times, bad rows - lose nothing on their way in."""

import csv
import gzip
import io
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.config import PrepareConfig
from recsys.data.dataset import import_dataset
from recsys.data.raw import Rejects

START = datetime(2020, 1, 1, tzinfo=UTC)
# Any printable id; white space at its ends is removed by the import.
IDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(' ,;"'), min_size=1).filter(
    lambda text: text == text.strip()
)
STEPS = st.integers(0, 10**12)  # microseconds
GOOD = st.tuples(IDS, IDS, STEPS)
BAD = st.sampled_from(
    [
        (["", "i", "{time}"], "missing user id"),
        (["u", " ", "{time}"], "missing item id"),
        (["u", "i", ""], "missing time"),
        (["u", "i", "soon"], "unparsable time"),
        (["u", "i", "{time}", "more"], "too many fields"),
    ]
)


class Form(NamedTuple):
    separator: str
    encoding: str
    packed: bool
    time: str


FORMS = st.builds(
    Form,
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
    st.sampled_from(
        ["microseconds", "seconds", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y/%m/%d %H:%M:%S.%f UTC"]
    ),
)


def written(step: int, form: str) -> str:
    moment = START + timedelta(microseconds=step)
    if form == "microseconds":
        return str(round(START.timestamp()) * 10**6 + step)
    if form == "seconds":
        return f"{round(START.timestamp()) + step // 10**6}.{step % 10**6:06}"
    return moment.strftime(form)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(GOOD, min_size=1, max_size=12), bad=st.lists(BAD, max_size=5), form=FORMS, seed=st.randoms())
def test_rows_in_are_rows_used_and_rows_reported(
    rows: list[tuple[str, str, int]], bad: list[tuple[list[str], str]], form: Form, seed: object
) -> None:
    good = [(user, item, step) for user, item, step in rows]
    lines: list[tuple[list[str], str | None]] = [([u, i, written(step, form.time)], None) for u, i, step in good]
    lines += [
        ([field.replace("{time}", written(0, form.time)) for field in fields], reason)
        for fields, reason in bad[: len(rows) - 1]
    ]
    seed.shuffle(lines)  # type: ignore[attr-defined]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=form.separator, lineterminator="\n")
    writer.writerows([["user_id", "item_id", "timestamp"], *(fields for fields, _ in lines)])
    content = buffer.getvalue().encode(form.encoding)
    rejects = Rejects(100)
    with tempfile.TemporaryDirectory() as folder:
        name = "interactions.csv.gz" if form.packed else "interactions.csv"
        (Path(folder) / name).write_bytes(gzip.compress(content) if form.packed else content)
        config = PrepareConfig(source=folder, min_interactions=1, max_bad_share=1, check_order=False)
        dataset = import_dataset(config, seed=0, work=Path(folder), rejects=rejects)
    card, found = dataset.card, dataset.interactions.frame
    assert card["rows"] == len(lines) == len(found) + card["exact_duplicates"] + len(rejects)
    expected = {(number, reason) for number, (_, reason) in enumerate(lines, 2) if reason is not None}
    assert {(row["row"], row["reason"]) for row in rejects.rows} == expected
    times = [tuple(fields) for fields, reason in lines if reason is None]
    used = list(dict.fromkeys(times))
    first_seen = list(dict.fromkeys(user for user, _, _ in used))
    steps = {written(step, form.time): step for _, _, step in good}
    in_order = sorted(used, key=lambda row: (first_seen.index(row[0]), steps[row[2]]))
    assert found.select("user_id", "item_id").rows() == [(user, item) for user, item, _ in in_order]
    exact = found.with_columns(moved=pl.col("timestamp") - pl.col("timestamp").min())["moved"].to_list()
    per_second = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6}[card["time_unit"]]
    lowest = min(steps[row[2]] for row in used)
    assert [step * 10**6 for step in exact] == [(steps[row[2]] - lowest) * per_second for row in in_order]
    assert Counter(row["reason"] for row in rejects.rows) == Counter(reason for _, reason in lines if reason)
