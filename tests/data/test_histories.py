"""Splits, histories and queries, by hand-computed examples and against a naive reference."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.histories import (
    interaction_counts,
    queries,
    training_histories,
    user_history,
)
from recsys.data.splits import by_time, leave_one_out
from recsys.errors import DataError
from recsys.tables import INTERACTION_SCHEMA, TEST, TRAIN, UNUSED, VALIDATION, Catalog, Interactions

ITEMS = "abcdefgh"
CATALOG = Catalog(pl.DataFrame({"item_id": list(ITEMS)}))


def interactions(users: str, items: str, splits: list[int]) -> Interactions:
    columns = {"user_id": list(users), "item_id": list(items), "timestamp": range(len(users)), "split": splits}
    return Interactions(pl.DataFrame(columns, schema=INTERACTION_SCHEMA))


def codes(text: str) -> list[int]:
    return [ITEMS.index(letter) for letter in text]


def test_leave_one_out_for_short_users() -> None:
    users = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    assert leave_one_out(users).tolist() == [0, 0, 2, 0, 1, 2, 0, 0, 1, 2]


def test_time_split_targets_the_first_of_a_window_and_only_users_with_a_history() -> None:
    users = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    times = np.array([0, 1, 6, 7, 8, 2, 3, 9, 6, 8])
    splits = by_time(users, times, validation_share=0.3, test_share=0.2)
    expected = [TRAIN, TRAIN, VALIDATION, UNUSED, TEST, TRAIN, TRAIN, TEST, UNUSED, TEST]
    assert splits.tolist() == expected


def test_time_split_without_targets_is_refused() -> None:
    with pytest.raises(DataError, match="leaves no training rows"):
        by_time(np.array([0, 0, 0]), np.array([5, 5, 5]), validation_share=0.1, test_share=0.1)


def test_histories_and_queries() -> None:
    data = interactions("uuuuvvw", "abcdaeb", [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, TEST, TRAIN])
    training = training_histories(data, CATALOG)
    assert training.user_ids == ["u", "v", "w"]
    assert [training[user].tolist() for user in range(3)] == [codes("ab"), codes("a"), codes("b")]
    validation, test = (queries(data, CATALOG, split=split, max_history=2) for split in (VALIDATION, TEST))
    assert validation.user_ids == ["u"]
    assert (validation.histories[0].tolist(), validation.targets.tolist()) == (codes("ab"), codes("c"))
    assert [test.histories[user].tolist() for user in range(2)] == [codes("bc"), codes("a")]
    assert test.targets.tolist() == codes("de")


@settings(deadline=None, max_examples=20)
@given(data=st.data(), history=st.integers(1, 4))
def test_queries_are_those_of_the_naive_rule(data: st.DataObject, history: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = "".join(data.draw(st.sampled_from(ITEMS)) for _ in users)
    splits = leave_one_out(users)
    table = interactions("".join(chr(97 + user) for user in users), items, splits.tolist())
    for split, allowed in ((VALIDATION, (TRAIN,)), (TEST, (TRAIN, VALIDATION))):
        found = queries(table, CATALOG, split=split, max_history=history)
        rows = [row for row in range(len(users)) if splits[row] == split]
        past = [
            [items[r] for r in range(row) if users[r] == users[row] and splits[r] in allowed][-history:] for row in rows
        ]
        assert [found.histories[n].tolist() for n in range(len(found))] == [codes("".join(p)) for p in past]
        assert found.targets.tolist() == [codes(items[row])[0] for row in rows]


def test_unused_rows_are_history_of_the_test_alone() -> None:
    data = interactions("uuuuu", "abcde", [TRAIN, TRAIN, VALIDATION, UNUSED, TEST])
    assert queries(data, CATALOG, split=TEST, max_history=9).histories[0].tolist() == codes("abcd")
    assert training_histories(data, CATALOG)[0].tolist() == codes("ab")
    data = interactions("uuuu", "abcd", [TRAIN, UNUSED, VALIDATION, TEST])
    assert queries(data, CATALOG, split=VALIDATION, max_history=9).histories[0].tolist() == codes("a")


def test_no_targets_give_empty_queries() -> None:
    data = interactions("uv", "ab", [TRAIN, TRAIN])
    assert len(queries(data, CATALOG, split=TEST, max_history=5)) == 0
    assert len(training_histories(interactions("", "", []), CATALOG)) == 0


def test_the_history_of_a_user_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    walked = interactions("uuuuv", "cadba", [TRAIN, VALIDATION, TEST, UNUSED, TRAIN])
    assert user_history(walked, "u") == ("c", "a", "d", "b")
    assert user_history(walked, "v") == ("a",)
    with pytest.raises(DataError, match=r"^user 'vv' is not one of the 2 users of this dataset; did you mean 'v'\?$"):
        user_history(walked, "vv")
    monkeypatch.setattr("recsys.data.histories.MAX_COMPARED", 1)
    with pytest.raises(
        DataError, match=r"^user 'vv' is not one of the 2 users of this dataset; ids are like 'u', 'v'$"
    ):
        user_history(walked, "vv")


def test_interactions_are_counted_for_every_item() -> None:
    counts = interaction_counts(np.array([2, 0, 2]), 4)
    assert (counts.tolist(), counts.dtype) == ([1, 0, 2, 0], np.int64)


def test_items_outside_the_catalogue_and_splits_without_targets_are_refused() -> None:
    data = interactions("u", "z", [TRAIN])
    with pytest.raises(DataError, match="1 interactions name items outside the catalogue, the first is 'z'"):
        training_histories(data, CATALOG)
    with pytest.raises(DataError, match="split 0 has no targets"):
        queries(data, CATALOG, split=TRAIN, max_history=5)
