"""New interactions join a dataset: which are added, how they are split, and that held-out ones are never trained on."""

from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import Dataset, load_dataset
from recsys.data.extension import CARD, added_after, extend, later_only, users_with_new
from recsys.data.histories import queries, training_histories
from recsys.data.raw import RAW_SCHEMA, RawData
from recsys.data.times import Clock
from recsys.errors import DataError
from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import sequential
from recsys.tables import TEST, TRAIN, VALIDATION

START = 1_700_000_000
Row = tuple[str, str, int]
OLD = [(user, item, START + place) for user in ("u", "v") for place, item in enumerate("abcde")]
LAST = START + 4


def after(*steps: tuple[str, str]) -> list[Row]:
    """Rows of user and item, a second apart, that begin after the last old one."""
    return [(user, item, LAST + 1 + place) for place, (user, item) in enumerate(steps)]


def raw(rows: list[Row], *, clock: Clock | None = None, **columns: pl.Series) -> RawData:
    frame = pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}, orient="row")
    return RawData(frame.cast(RAW_SCHEMA).with_columns(**columns), None, {}, clock or Clock())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Users u and v, each with items a to e."""
    path = tmp_path / "interactions.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in OLD))
    return load_dataset(path, min_interactions=1, check_order=False)


def extended(dataset: Dataset, rows: list[Row], held_out: float = 1.0) -> Dataset:
    return extend(dataset, raw(rows), held_out=held_out, seed=0)


def splits(dataset: Dataset, user: str) -> list[tuple[str, int]]:
    return list(dataset.interactions.frame.filter(user_id=user).select("item_id", "split").iter_rows())


def examples(dataset: Dataset, max_history: int = 50) -> list[Example]:
    histories = training_histories(later_only(dataset), dataset.catalog)
    return list(sequential(TaskSource(dataset.catalog, histories, max_history), InstructConfig()))


def test_the_last_new_item_is_test_and_the_one_before_validation(dataset: Dataset) -> None:
    found = extended(dataset, after(*(("u", item) for item in "dcba")))
    old = [(item, TRAIN) for item in "abcde"]
    assert splits(found, "u") == [*old, ("d", TRAIN), ("c", TRAIN), ("b", VALIDATION), ("a", TEST)]
    assert splits(found, "v") == splits(dataset, "v"), "a user without new interactions stays as split"
    assert added_after(found) == LAST
    assert users_with_new(found, split=TEST) == {"u"}


def test_new_users_follow_and_short_ones_have_what_they_can(dataset: Dataset) -> None:
    rows = after(("n", "a"), ("m", "b"), ("n", "c"), ("v", "a"), ("n", "d"), ("n", "e"), ("m", "e"), ("k", "a"))
    found = extended(dataset, rows)
    assert found.interactions.frame["user_id"].unique(maintain_order=True).to_list() == ["u", "v", "n", "m", "k"]
    assert splits(found, "n") == [("a", TRAIN), ("c", TRAIN), ("d", VALIDATION), ("e", TEST)]
    assert splits(found, "m") == [("b", TRAIN), ("e", TEST)]
    assert splits(found, "k") == [("a", TRAIN)]
    assert [split for _, split in splits(found, "v")] == [TRAIN] * 5 + [TEST]
    assert (users_with_new(found, split=TEST), users_with_new(found, split=VALIDATION)) == ({"n", "m", "v"}, {"n"})
    card = found.card[CARD]
    assert (card["added"], card["users"], card["new_users"]) == (8, 4, 3)
    assert (card["training"], card["validation"], card["test"]) == (4, 1, 3)
    assert found.card["interactions"] == len(found.interactions) == 18


def test_rows_of_unknown_items_known_rows_and_early_rows_are_counted_and_left_out(dataset: Dataset) -> None:
    rows = after(*(("u", item) for item in "dcba"))
    others = [("u", "x", LAST + 9), ("w", "x", LAST + 9), ("w", "y", LAST + 9), *OLD[:3], ("w", "a", LAST), rows[0]]
    found = extended(dataset, [*others, *rows])
    assert found.interactions.frame.equals(extended(dataset, rows).interactions.frame)
    counts = {name: found.card[CARD][name] for name in ("rows", "repeated", "of_unknown_items", "unknown_items")}
    assert counts == {"rows": 12, "repeated": 1, "of_unknown_items": 3, "unknown_items": 2}
    assert (found.card[CARD]["already_in_parent"], found.card[CARD]["not_later"]) == (3, 1)


def test_only_new_training_items_are_targets_and_old_ones_are_read(dataset: Dataset) -> None:
    found = examples(extended(dataset, after(*(("u", item) for item in "dcba"))))
    (example,) = found
    assert example.history == (0, 1, 2, 3, 4, 3, 2)
    assert example.targets == (3, 2)


def test_held_out_new_items_enter_no_example(dataset: Dataset) -> None:
    kept = [*(("u", item) for item in "dcb"), *(("n", item) for item in "ab")]
    one, other = (
        extended(dataset, after(*kept, ("u", first), ("u", second), ("n", second), ("n", first)))
        for first, second in (("a", "e"), ("e", "a"))
    )
    assert examples(one) == examples(other)
    assert not one.interactions.frame.equals(other.interactions.frame)
    assert sum(len(example.targets) for example in examples(one)) == len(kept)


def test_validation_histories_end_before_the_held_out_items(dataset: Dataset) -> None:
    found = extended(dataset, after(*(("u", item) for item in "dcba")))
    asked = queries(found.interactions, found.catalog, split=VALIDATION, max_history=50)
    row = asked.user_ids.index("u")
    assert (asked.histories[row].tolist(), asked.targets[row]) == ([0, 1, 2, 3, 4, 3, 2], 1)


def test_of_fewer_users_items_are_held_out(dataset: Dataset) -> None:
    steps = [(f"n{user}", item) for user in range(40) for item in "abcd"]
    found = extended(dataset, after(*steps), held_out=0.25)
    held = users_with_new(found, split=TEST)
    assert 2 <= len(held) <= 20
    assert users_with_new(found, split=VALIDATION) == held
    fewer = extended(dataset, after(*steps[:80]), held_out=0.25)
    assert users_with_new(fewer, split=TEST) == held & {f"n{user}" for user in range(20)}


def test_finer_and_coarser_times_become_those_of_the_dataset(dataset: Dataset) -> None:
    rows = after(*(("u", item) for item in "dcba"))
    finer = [(user, item, time * 1000 + 7) for user, item, time in rows]
    found = extend(dataset, raw(finer, clock=Clock("milliseconds", 1000)), held_out=1, seed=0)
    assert found.interactions.frame.equals(extended(dataset, rows).interactions.frame)


def test_without_a_data_card_the_unit_is_that_of_the_times(dataset: Dataset) -> None:
    rows = after(*(("u", item) for item in "dcba"))
    found = extended(Dataset(dataset.interactions, dataset.catalog, {}), rows)
    assert found.interactions.frame.equals(extended(dataset, rows).interactions.frame)


def test_a_dataset_can_be_extended_again(dataset: Dataset) -> None:
    first = extended(dataset, after(*(("u", item) for item in "dcba")))
    second = extended(first, [(user, item, time + 100) for user, item, time in after(*(("v", i) for i in "dcba"))])
    assert splits(second, "u") == splits(first, "u")
    assert [split for _, split in splits(second, "v")] == [TRAIN] * 7 + [VALIDATION, TEST]
    assert [example.targets for example in examples(second)] == [(3, 2)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (OLD, r"there are no new interactions: .*later than 1700000004.*already in parent 10"),
        ([("u", "x", LAST + 1)], r"there are no new interactions: .*of unknown items 1"),
        (after(("u", "a"), ("u", "b")), r"none of the 2 new interactions is left to train on"),
        (after(("n", "a"), ("n", "b"), ("n", "c")), r"none of the 3 new interactions is left to train on"),
        ([("n", "a", 0), ("n", "b", 1), ("n", "c", 2)], r"the new times are positions"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(dataset: Dataset, rows: list[Row], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        extended(dataset, rows)
    assert "\n" not in str(caught.value)


def test_weights_are_those_of_the_new_rows(dataset: Dataset) -> None:
    frame = dataset.interactions.frame.with_columns(weight=pl.lit(1.0, pl.Float32))
    weighted = Dataset(type(dataset.interactions)(frame), dataset.catalog, dataset.card)
    weights = pl.Series([0.0, 1.0, 3.0, 1.0, 1.0], dtype=pl.Float32)
    found = extend(weighted, raw(after(*(("u", item) for item in "dcbae")), weight=weights), held_out=1, seed=0)
    (example,) = examples(found)
    assert example.weights == (0, 0, 0, 0, 0, 0, 0.5, 1.5)


def test_new_dislikes_join_those_that_were_known(dataset: Dataset) -> None:
    rows = after(*(("u", item) for item in "dcbae"))
    disliked = pl.Series([True, False, False, False, False])
    found = extend(dataset, raw(rows, disliked=disliked), held_out=1, seed=0)
    assert found.dislikes is not None
    assert found.dislikes.by_user() == {"u": ("d",)}
    assert [item for item, _ in splits(found, "u")][5:] == ["c", "b", "a", "e"]
    later = [(user, item, time + 100) for user, item, time in after(("v", "c"), ("u", "a"), ("u", "b"), ("u", "e"))]
    second = extend(found, raw(later, disliked=pl.Series([True, False, False, False])), held_out=1, seed=0)
    assert second.dislikes is not None
    assert second.dislikes.by_user() == {"u": ("d",), "v": ("c",)}
