"""The nouns check themselves once, say what they are, and survive a round trip."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.tables import Catalog, Histories, Interactions, ItemVectors, Queries, Rankings, SemanticIds

INTERACTIONS = pl.DataFrame(
    {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 1], "split": [0, 2, 0]},
    schema_overrides={"split": pl.Int8},
)
CATALOG = Catalog(pl.DataFrame({"item_id": ["a", "b"], "title": ["A", None], "brand": [None, "B"]}))


def test_nouns_say_what_they_are() -> None:
    assert repr(Interactions(INTERACTIONS)) == "<Interactions (2 users x 2 items x 3 interactions)>"
    assert repr(CATALOG) == "<Catalog (2 items; title, brand)>"
    assert repr(SemanticIds(["a"], np.array([[1, 2]]), 4)) == "<SemanticIds (1 items, 2 levels x 4 codes)>"


def test_a_missing_or_mistyped_column_is_named() -> None:
    with pytest.raises(DataError, match="'timestamp' is missing; found user_id, item_id, split"):
        Interactions(INTERACTIONS.drop("timestamp"))
    with pytest.raises(DataError, match="'timestamp' is String, expected Int64"):
        Interactions(INTERACTIONS.with_columns(pl.col("timestamp").cast(pl.String)))


def test_a_catalogue_has_one_row_an_item_and_a_line_for_each() -> None:
    with pytest.raises(DataError, match="repeated"):
        Catalog(pl.DataFrame({"item_id": ["a", "a"]}))
    assert CATALOG.titles() == ["A", "b"]
    with pytest.raises(DataError, match="2 item ids are not in the catalogue, the first is 'x'"):
        CATALOG.indices(["a", "x", "y"])


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_histories_are_the_lists_they_came_from(lists: list[list[int]], count: int) -> None:
    histories = Histories.from_lists([str(i) for i in range(len(lists))], lists)
    assert [histories[u].tolist() for u in range(len(histories))] == lists
    assert [histories.last(count)[u].tolist() for u in range(len(histories))] == [x[-count:] for x in lists]
    order = np.arange(len(lists))[::-1]
    assert [h.tolist() for h in map(histories.take(order).__getitem__, range(len(lists)))] == lists[::-1]


def test_queries_need_a_target_a_user() -> None:
    with pytest.raises(DataError, match="one target"):
        Queries(Histories.from_lists(["u"], [[1]]), np.array([1, 2]))


def test_item_vectors_survive_a_round_trip_and_refuse_what_is_no_matrix(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    path = tmp_path / "v.parquet"
    ItemVectors(["a", "b", "c"], vectors).save(path)
    loaded = ItemVectors.load(path)
    assert loaded.item_ids == ["a", "b", "c"]
    assert np.array_equal(loaded.vectors, vectors)
    with pytest.raises(DataError, match="NaN"):
        ItemVectors(["a"], np.array([[np.nan]], dtype=np.float32))
    pl.DataFrame({"item_id": [1, 2], "embedding": [[1.0, 2.0], [3.0]]}).write_parquet(path)
    with pytest.raises(DataError, match=r"v\.parquet: every embedding needs the same number"):
        ItemVectors.load(path)
    pl.DataFrame({"item_id": [1, 2], "embedding": [[1.0, 2.0], [3.0, 4.0]]}).write_parquet(path)
    assert ItemVectors.load(path).item_ids == ["1", "2"], "integer ids become strings, lists of any kind are read"


def test_semantic_ids_are_unique_within_range_and_survive_a_round_trip(tmp_path: Path) -> None:
    ids = SemanticIds(["a", "b"], np.array([[0, 3], [1, 3]]), 4)
    ids.save(tmp_path / "ids.parquet")
    loaded = SemanticIds.load(tmp_path / "ids.parquet")
    assert (loaded.item_ids, loaded.codes.tolist(), loaded.num_codes) == (["a", "b"], [[0, 3], [1, 3]], 4)
    with pytest.raises(DataError, match="share one id"):
        SemanticIds(["a", "b"], np.array([[0, 3], [0, 3]]), 4)
    with pytest.raises(DataError, match=r"0\.\.3"):
        SemanticIds(["a"], np.array([[0, 4]]), 4)


def test_rankings_of_indices_leave_empty_places_out() -> None:
    items, scores = np.array([[1, -1], [0, 1]]), np.array([[0.5, -np.inf], [0.9, 0.1]], dtype=np.float32)
    frame = Rankings.from_arrays(["u", "v"], items, scores, catalog=CATALOG, source="x").frame
    assert frame.select("user_id", "rank", "item_id").rows() == [("u", 1, "b"), ("v", 1, "a"), ("v", 2, "b")]
    assert frame["score"].to_list() == pytest.approx([0.5, 0.9, 0.1])
