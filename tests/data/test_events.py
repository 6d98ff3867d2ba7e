"""Rows selected by a condition, weights of events, dislikes, and the table of users."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.dataset import Dataset, load_dataset
from recsys.data.expressions import comparable, parse_condition
from recsys.data.histories import training_histories, windows
from recsys.errors import ConfigError, DataError
from recsys.tables import TEST, VALIDATION, Histories

Folder = Callable[..., Path]
HEADER = "user_id,item_id,timestamp,rating,event\n"
ROWS = """u1,i1,100,10,view
u1,i2,200,9,purchase
u1,i3,300,2,view
u1,i4,400,,purchase
u2,i1,100,4.5,view
u2,i2,200,1,purchase
u2,i3,300,10,view
"""


def load(source: Path, **options: Any) -> Dataset:
    return load_dataset(source, min_interactions=1, **options)


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    return dataset.interactions.frame.select("user_id", "item_id").rows()


def test_text_that_is_all_numbers_is_compared_as_numbers(folder: Folder) -> None:
    dataset = load(folder(interactions_csv=HEADER + ROWS), where="rating >= 9")
    assert pairs(dataset) == [("u1", "i1"), ("u1", "i2"), ("u2", "i3")]
    assert dataset.card["not_selected"] == 4  # of which one has no rating
    assert dataset.card["rows"] == 7


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ('event == "purchase"', ["i2", "i4", "i2"]),
        ("event = 'purchase' AND rating>=9", ["i2"]),
        ("NOT (event = 'purchase') and `rating` < 10", ["i3", "i1"]),
        ("rating IS NULL or item_id in ('i1', 'x')", ["i1", "i4", "i1"]),
        ("rating BETWEEN 2 AND 4.5", ["i3", "i1"]),
        ("event LIKE 'p%' AND timestamp <> 200", ["i4"]),
        ("rating * 2 - 1 > -1 + 18", ["i1", "i3"]),
    ],
)
def test_a_condition_selects_rows(folder: Folder, where: str, kept: list[str]) -> None:
    assert [item for _, item in pairs(load(folder(interactions_csv=HEADER + ROWS), where=where))] == kept


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("rating >=", "cannot be read; allowed: names of columns"),
        ("rating >= 4; event", "cannot be read at '; event'"),
        ("abs(rating) > 1", r"calls 'abs'; there are no functions"),
        ("1 = 1", "names no column"),
        ("event = 'purchase", "cannot be read at"),
    ],
)
def test_a_condition_of_another_form_is_refused_before_anything_is_read(where: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(Path("nowhere"), where=where)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("ratng >= 4", r"prepare\.where names column 'ratng', .*found user_id, item_id, timestamp, rating, event"),
        ("event > 3", r"event \(text, such as 'view'\); compare numbers with numbers"),
        ("rating = '9'", r"rating \(numbers\)"),
        ("rating + 1", "is a value and no condition"),
        ("rating > 99", "none of 7 rows is selected"),
    ],
)
def test_a_condition_that_does_not_fit_the_columns_is_refused(folder: Folder, where: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(folder(interactions_csv=HEADER + ROWS), where=where)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-120, 120), st.floats(-99, 99)), min_size=1), st.integers(-99, 99))
def test_written_numbers_compare_like_numbers(values: list[float | None], limit: int) -> None:
    written = comparable(pl.Series("n", [None if v is None else f" {v} " for v in values], dtype=pl.String))
    expected = [v is not None and v >= limit for v in values]
    if any(v is not None for v in values):
        found = parse_condition(f"n >= {limit}").holds(pl.DataFrame({"n": written}), "prepare.where")
        assert found.to_list() == expected


def test_nan_is_no_large_number() -> None:
    values = pl.DataFrame({"n": comparable(pl.Series([float("nan"), 5.0, None]))})
    assert parse_condition("n >= 4").holds(values, "prepare.where").to_list() == [False, True, False]


def test_rows_that_are_not_selected_need_no_ids_and_times(folder: Folder) -> None:
    searches = ",,,,search\n" * 50 + "u1,,soon,,search\n"
    dataset = load(folder(interactions_csv=HEADER + ROWS + searches), where="event != 'search'")
    assert len(dataset.interactions) == 7
    assert dataset.card["not_selected"] == 51
    assert dataset.card["rejected"] == {}


def test_selected_positions_are_still_positions(folder: Folder) -> None:
    rows = "".join(f"u{u},i{(u * 5 + t * 3) % 7},{t},{t},view\n" for u in range(4) for t in range(6))
    dataset = load(folder(interactions_csv=HEADER + rows), where="rating != 2")
    assert dataset.card["time_unit"] == "positions"
    assert load(folder(interactions_csv=HEADER + rows), dislikes="rating = 2").card["time_unit"] == "positions"


def test_weights_are_the_product_of_column_and_event_type(folder: Folder) -> None:
    source = folder(interactions_csv=HEADER + ROWS.replace(",,purchase", ",0,purchase"))
    weights = {"view": 0.5, "purchase": 2}
    dataset = load(source, weight_column="rating", event_column="event", event_weights=weights)
    assert dataset.interactions.frame["weight"].to_list() == [5, 18, 1, 0, 2.25, 2, 5]
    assert dataset.interactions.frame["weight"].dtype == pl.Float32
    assert dataset.card["weights"] == {"least": 0, "mean": 4.75, "greatest": 18, "zeros": 1}
    assert dataset.card["event_types"] == {"view": 4, "purchase": 3}


def test_without_weights_there_is_no_column(folder: Folder) -> None:
    dataset = load(folder(interactions_csv=HEADER + ROWS))
    assert dataset.interactions.frame.columns == ["user_id", "item_id", "timestamp", "split"]
    assert training_histories(dataset.interactions, dataset.catalog).weights is None
    assert not {"weights", "not_selected", "dislikes", "event_types"} & set(dataset.card)


def test_unusable_weights_and_missing_event_types_are_bad_rows(folder: Folder) -> None:
    bad = "u3,i1,1,-1,view\nu3,i1,2,x,view\nu3,i1,3,inf,view\nu3,i1,4,5,\nu3,i2,5,5,view\n"
    source = folder(interactions_csv=HEADER + ROWS + bad)
    dataset = load(
        source, weight_column="rating", event_column="event", event_weights={"view": 1, "purchase": 1}, max_bad_share=1
    )
    reasons = {"unusable weight": 4, "missing event type": 1}
    assert dataset.card["rejected"] == {"interactions.csv": reasons}
    assert len(dataset.interactions) + 5 == dataset.card["rows"]


def test_an_event_type_without_a_weight_is_refused_unless_it_is_left_out(folder: Folder) -> None:
    source = folder(interactions_csv=HEADER + ROWS)
    with pytest.raises(DataError, match=r"without a weight: 'purchase' \(3 rows\).*leave them out by prepare\.where"):
        load(source, event_column="event", event_weights={"view": 1})
    assert len(load(source, event_column="event", event_weights={"view": 1}, where="event = 'view'").interactions) == 4
    assert len(load(source, event_column="event", event_weights={"view": 1}, dislikes="event <> 'view'").interactions)
    everything = "rating > 0 OR rating IS NULL"
    disliked = load(
        source, event_column="event", event_weights={"view": 1}, dislikes="event <> 'view'", where=everything
    )
    assert disliked.card["disliked_rows"] == 3
    with pytest.raises(ConfigError, match="go together"):
        load(source, event_column="event")


def test_of_events_at_one_time_the_heaviest_stays(folder: Folder) -> None:
    rows = "u1,i1,1,1,view\nu1,i1,1,1,purchase\nu1,i1,1,1,view\nu1,i2,2,1,view\n"
    weights = {"view": 0.25, "purchase": 1}
    dataset = load(folder(interactions_csv=HEADER + rows), event_column="event", event_weights=weights)
    assert dataset.interactions.frame["weight"].to_list() == [1, 0.25]
    assert dataset.card["exact_duplicates"] == 2


def test_dislikes_are_no_interactions_whatever_is_selected(folder: Folder, tmp_path: Path) -> None:
    rows = ROWS + "u1,i3,350,10,view\nu3,i9,1,1,view\n"
    dataset = load(folder(interactions_csv=HEADER + rows), where="rating >= 4", dislikes="rating <= 2")
    assert pairs(dataset) == [("u1", "i1"), ("u1", "i2"), ("u2", "i1"), ("u2", "i3")]
    assert dataset.dislikes is not None
    # u3 and i9 are not in the dataset, and i3 is there because of u2.
    assert dataset.dislikes.frame.rows() == [("u1", "i3", 300), ("u2", "i2", 200)]
    card = dataset.card
    assert (card["disliked_rows"], card["dislikes"], card["dislikes_outside_the_dataset"]) == (3, 2, 1)
    accounted = ("interactions", "exact_duplicates", "outside_k_core", "not_selected", "disliked_rows")
    assert card["rows"] == sum(card[name] for name in (*accounted, "interactions_of_disliked_pairs")) == 9
    dataset.save(tmp_path)
    assert Dataset.load(tmp_path).dislikes.by_user() == {"u1": ("i3",), "u2": ("i2",)}  # type: ignore[union-attr]


def test_only_dislikes_before_the_target_are_known(folder: Folder) -> None:
    rows = "".join(f"u1,i{n},{100 * n},5,view\n" for n in range(1, 5)) + "u2,i8,1,5,view\nu2,i9,2,5,view\n"
    rows += "u1,i8,250,1,view\nu1,i9,350,1,view\nu1,i8,450,1,view\n"
    dataset = load(folder(interactions_csv=HEADER + rows), dislikes="rating = 1")
    assert dataset.dislikes is not None

    def known(split: int) -> list[list[str]]:
        found = dataset.dislikes.before_targets(["u2", "u1"], dataset.interactions, dataset.catalog, split=split)  # type: ignore[union-attr]
        return [sorted(dataset.catalog.item_ids[item] for item in items) for items in found]

    assert known(TEST) == [[], ["i8", "i9"]]
    assert known(VALIDATION) == [[], ["i8"]]


@pytest.mark.parametrize("name", ["ratings_csv", "ratings_dat"])
def test_ratings_of_movielens_are_a_column(folder: Folder, name: str) -> None:
    rows = [("1", "10", "3.5", 100), ("1", "20", "5", 200), ("2", "10", "1", 100), ("2", "20", "4", 300)]
    header, separator = ("userId,movieId,rating,timestamp\n", ",") if name.endswith("csv") else ("", "::")
    text = header + "".join(separator.join(map(str, row)) + "\n" for row in rows)
    dataset = load(folder(**{name: text}), where="rating >= 4", dislikes="rating < 2", weight_column="rating")
    assert dataset.card["kind"] == "movielens"
    assert dataset.interactions.frame.select("user_id", "item_id", "weight").rows() == [("1", "20", 5), ("2", "20", 4)]
    assert dataset.card["not_selected"] == 1


def test_ratings_of_amazon_reviews_are_a_column(tmp_path: Path) -> None:
    reviews = [("a", "x", 5), ("a", "y", 2), ("b", "x", None), ("b", "y", 4)]
    lines = [
        json.dumps({"reviewerID": u, "asin": i, "unixReviewTime": 1_400_000_000 + n, "overall": r})
        for n, (u, i, r) in enumerate(reviews)
    ]
    (tmp_path / "reviews.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    dataset = load(tmp_path, where="rating >= 4", weight_column="rating")
    assert dataset.interactions.frame.select("user_id", "item_id", "weight").rows() == [("a", "x", 5), ("b", "y", 4)]
    assert dataset.card["not_selected"] == 2
    unweighted = load(tmp_path, weight_column="rating", max_bad_share=1)
    assert unweighted.card["rejected"] == {"reviews.json.gz": {"unusable weight": 1}}
    with pytest.raises(DataError, match=r"names column 'stars'.*found rating, timestamp"):
        load(tmp_path, where="stars > 3")


def test_data_without_columns_refuse_conditions() -> None:
    with pytest.raises(ConfigError, match=r"cannot be used with prepare\.kind=synthetic"):
        load_dataset("synthetic", where="rating > 3")


def test_users_are_read_with_texts(folder: Folder, tmp_path: Path) -> None:
    users = "user_id,city,age\nu2,<b>Rome</b> &amp; Ostia,31\nu9,x,1\nu1, ,\nu2,Paris,4\n"
    dataset = load(folder(interactions_csv=HEADER + ROWS, users_csv=users))
    assert dataset.users is not None
    assert dataset.users.frame.rows() == [("u2", "Rome & Ostia", "31"), ("u1", None, None)]
    counts = {name: dataset.card[name] for name in ("users_without_interactions", "users_not_listed", "repeated_users")}
    assert counts == {"users_without_interactions": 1, "users_not_listed": 0, "repeated_users": 1}
    assert dataset.card["users_without_texts"] == 1
    saved = tmp_path / "saved"
    saved.mkdir()
    dataset.save(saved)
    assert Dataset.load(saved).users.frame.equals(dataset.users.frame)  # type: ignore[union-attr]
    (tmp_path / "users.csv").unlink()
    assert load(tmp_path).users is None


def test_users_of_other_ids_are_refused_with_both_forms(folder: Folder) -> None:
    source = folder(interactions_csv=HEADER + ROWS, users_csv="user_id,city\n1,Rome\n2,Paris\n")
    with pytest.raises(
        DataError, match=r"none of the 2 user ids of interactions.csv \('u1', 'u2', \.\.\.\).*\('1', '2'"
    ):
        load(source)
    with pytest.raises(DataError, match=r"'u1' against 'U1'"):
        load(folder(users_csv="user_id,city\nU1,Rome\nU2,Paris\n"))
    with pytest.raises(DataError, match=r"column 'user_id' is missing; found id, city"):
        load(folder(users_csv="id,city\nu1,Rome\n"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 0.2, 1, 3]), max_size=7), min_size=1, max_size=5), st.integers(2, 4))
def test_weights_of_windows_have_a_mean_of_one(lists: list[list[float]], window: int) -> None:
    items = [list(range(len(weights))) for weights in lists]
    plain = Histories.from_lists([str(n) for n in range(len(lists))], items)
    weights = np.array([weight for weights in lists for weight in weights], np.float32)
    weighted = Histories(plain.user_ids, plain.indptr, plain.items, weights)
    cut = windows(plain, window)
    if not cut:
        return
    kept = [(user, stop) for user, w in enumerate(lists) for stop in range(len(w), 1, -window)]
    own = [np.array(lists[u][max(0, stop - window) : stop], np.float32) for u, stop in kept]
    with_targets = [n for n, values in enumerate(own) if values.any()]
    if not with_targets:
        with pytest.raises(DataError, match="all training interactions weigh 0"):
            windows(weighted, window)
        return
    found = windows(weighted, window)
    assert [s.items.tolist() for s in found] == [cut[n].items.tolist() for n in with_targets]
    mean = np.concatenate(own)[np.concatenate(own) > 0].mean()
    for sequence, n in zip(found, with_targets, strict=True):
        np.testing.assert_allclose(sequence.weights, own[n] / mean, rtol=1e-5)
