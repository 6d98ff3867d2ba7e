"""The nouns check themselves once, say what they are, and survive a round trip."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.errors import DataError
from recsys.tables import (
    CandidateFilter,
    Catalog,
    Histories,
    Interactions,
    ItemVectors,
    Queries,
    Rankings,
    SemanticIds,
    TopItems,
    concatenate,
    top_k,
)

INTERACTIONS = pl.DataFrame(
    {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 1], "split": [0, 2, 0]},
    schema_overrides={"split": pl.Int8},
)
VALUES = st.sampled_from([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 1.0, 3e38])
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


def test_rankings_of_indices_leave_padding_out() -> None:
    items, scores = np.array([[1, -1], [0, 1]]), np.array([[0.5, -np.inf], [0.9, 0.1]], dtype=np.float32)
    frame = Rankings.from_arrays(["u", "v"], TopItems(items, scores), catalog=CATALOG, source="x").frame
    assert frame.select("user_id", "rank", "item_id").rows() == [("u", 1, "b"), ("v", 1, "a"), ("v", 2, "b")]
    assert frame["score"].to_list() == pytest.approx([0.5, 0.9, 0.1])


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (2, 7), elements=VALUES), st.integers(1, 9))
def test_top_k_equals_a_stable_sort(scores: np.ndarray, k: int) -> None:
    top = top_k(scores, k)
    for row, items, values in zip(scores, top.items, top.scores, strict=True):
        expected = [i for i in np.lexsort((np.arange(7), -row)) if row[i] > -np.inf][:k]
        assert items.tolist() == expected + [-1] * (k - len(expected))
        assert values[: len(expected)].tolist() == row[expected].tolist()


def test_ties_of_top_k_go_to_the_lower_index_in_a_wide_row() -> None:
    scores = np.zeros((1, 5000), dtype=np.float32)
    scores[0, 4000:] = 1
    assert top_k(scores, 20).items.tolist() == [list(range(4000, 4020))]


def test_top_items_are_cut_padded_and_put_below_each_other() -> None:
    top = top_k(np.array([[0.1, 0.3, 0.2]], dtype=np.float32), 2)
    assert top.first(1).items.tolist() == [[1]]
    assert top.padded(4).items.tolist() == [[1, 2, -1, -1]]
    assert np.isneginf(top.padded(4).scores[0, 2:]).all()
    assert top.padded(1).items.tolist() == [[1, 2]]
    both = concatenate([top, TopItems(top.items[:, ::-1], top.scores[:, ::-1])], 2)
    assert both.items.tolist() == [[1, 2], [2, 1]]
    assert both.scores.tolist() == [top.scores[0].tolist(), top.scores[0, ::-1].tolist()]
    assert concatenate([], 3).items.shape == concatenate([], 3).scores.shape == (0, 3)


@st.composite
def filters(draw: st.DrawFn) -> tuple[CandidateFilter, list[set[int]]]:
    """A filter of some requests over 6 items, and what each may get."""
    users = draw(st.integers(0, 4))
    excluded = draw(st.none() | st.lists(st.lists(st.integers(0, 5), max_size=7), min_size=users, max_size=users))
    allowed = draw(st.none() | st.lists(st.booleans(), min_size=6, max_size=6))
    left = [
        {i for i in range(6) if (allowed is None or allowed[i]) and (excluded is None or i not in excluded[user])}
        for user in range(users)
    ]
    arrays_ = None if excluded is None else [np.array(items, dtype=np.int64) for items in excluded]
    return CandidateFilter(arrays_, None if allowed is None else np.array(allowed)), left


@settings(deadline=None, max_examples=100)
@given(filters(), st.data())
def test_a_candidate_filter_keeps_what_its_definition_does(
    given_: tuple[CandidateFilter, list[set[int]]], data: st.DataObject
) -> None:
    candidates, left = given_
    mask = candidates.mask(len(left), 6)
    assert (mask is None) == (candidates.excluded is None and candidates.allowed is None)
    scores = np.arange(len(left) * 6, dtype=np.float32).reshape(-1, 6)
    applied = scores.copy()
    candidates.apply(applied)
    for user, kept in enumerate(left):
        assert mask is None or set(np.flatnonzero(mask[user]).tolist()) == kept
        assert set(np.flatnonzero(np.isfinite(applied[user])).tolist()) == kept
        assert all(applied[user, item] == scores[user, item] for item in kept)
    rows = data.draw(st.lists(st.integers(0, len(left) - 1), max_size=5)) if left else []
    taken = candidates.take(np.array(rows, dtype=np.int64)).mask(len(rows), 6)
    assert (taken is None) == (mask is None)
    if taken is not None and mask is not None:
        np.testing.assert_array_equal(taken, mask[np.array(rows, dtype=np.int64)])


def test_unseen_leaves_each_history_out() -> None:
    mask = CandidateFilter.unseen(Histories.from_lists(["u", "v"], [[0, 2], []])).mask(2, 3)
    assert mask is not None
    assert mask.tolist() == [[False, True, False], [True, True, True]]
