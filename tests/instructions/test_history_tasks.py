"""Asymmetric prediction: what is read, what is answered, and that no prompt holds its answer."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.instructions.examples import Example
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import make_examples
from recsys.tables import Catalog, Histories
from tests.instructions.shop import BARE, BLUE, CATALOG, GLASS, NAMELESS, POT, RAKE, RED, histories, only

TASKS = ("history_to_title", "history_to_description", "titles_to_id")
GOLDEN = {
    "history_to_title": [
        Example("history_to_title", history=(RED,), text="Steel pot"),
        Example("history_to_title", history=(GLASS, NAMELESS), text="Blue iron pan"),
    ],
    "history_to_description": [Example("history_to_description", history=(RED,), text="For soup.")],
    "titles_to_id": [
        Example("titles_to_id", item=POT, titles=("Red iron pan",)),
        Example("titles_to_id", item=BLUE, titles=("Glass lid",)),
    ],
}
LISTS = st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=6)
NAMED = Catalog(pl.DataFrame({"item_id": [f"i{n}" for n in range(9)], "title": [f"Title {n}" for n in range(9)]}))
WRITTEN = NAMED.frame.with_columns(description="About " + pl.col("title"))


@pytest.mark.parametrize("task", TASKS)
def test_the_next_item_is_answered_in_another_form(task: str) -> None:
    """The item without a title counts for nothing, so that each history has one position; the last has none."""
    plain = histories([RED, POT], [GLASS, NAMELESS, BLUE], [RAKE], [RED, RED])
    weights = np.array([item != NAMELESS for item in plain.items], np.float32)
    weighted = Histories(plain.user_ids, plain.indptr, plain.items, weights)
    assert make_examples(TaskSource(CATALOG, weighted), only(task)) == GOLDEN[task]


@given(LISTS, st.integers(2, 6))
@settings(deadline=None, max_examples=40)
def test_no_prompt_holds_its_answer(lists: list[list[int]], window: int) -> None:
    source = TaskSource(Catalog(WRITTEN), histories(*lists), window)
    for example in make_examples(source, only(*TASKS)):
        if example.task == "titles_to_id":
            assert example.item is not None
            assert not example.history
            assert not example.text
            read, answer = [int(title.split()[-1]) for title in example.titles], example.item
        else:
            assert example.item is None
            assert not example.titles
            read, answer = list(example.history), int(example.text.split()[-1])
        assert answer not in read
        assert 1 <= len(read) < window
        assert any(_follows([*read, answer], items) for items in lists)


def _follows(part: list[int], items: list[int]) -> bool:
    return any(items[start : start + len(part)] == part for start in range(len(items)))


@given(LISTS, st.integers(2, 6))
@settings(deadline=None, max_examples=40)
def test_each_window_with_a_new_item_has_one_example(lists: list[list[int]], window: int) -> None:
    source = TaskSource(NAMED, histories(*lists), window)
    windows = [items[max(0, end - window) : end] for items in lists for end in range(len(items), 0, -window)]
    expected = sum(len(set(items)) > 1 for items in windows)
    assert len(make_examples(source, only("history_to_title"))) == expected


def test_the_number_of_examples_is_bounded_by_a_sample_of_windows() -> None:
    many = histories(*([n % 9, (n + 1) % 9] for n in range(300)))
    found = make_examples(TaskSource(NAMED, many), only("titles_to_id", max_examples=90))
    assert len(found) == 90
    every = make_examples(TaskSource(NAMED, many), only("titles_to_id"))
    assert len(every) == 300
    assert found != every[:90]


def test_positions_are_drawn_by_weight_and_those_of_weight_zero_are_never_answers() -> None:
    lists = [[0, 1, 2, 3]] * 400
    plain = histories(*lists)
    weights = np.array([1.0, 0.0, 1.0, 3.0] * 400, np.float32)
    weighted = Histories(plain.user_ids, plain.indptr, plain.items, weights)
    answers = [e.item for e in make_examples(TaskSource(NAMED, weighted), only("titles_to_id"))]
    assert len(answers) == 400
    assert set(answers) == {2, 3}
    assert 0.65 < answers.count(3) / 400 < 0.85


def test_examples_are_the_same_in_every_run_and_differ_between_tasks() -> None:
    lists = [[(start + step) % 9 for step in range(6)] for start in range(40)]
    made = [make_examples(TaskSource(Catalog(WRITTEN), histories(*lists)), only(*TASKS)) for _ in range(2)]
    assert made[0] == made[1]
    lengths = [[len(e.history or e.titles) for e in made[0] if e.task == task] for task in TASKS]
    assert all(one != other for one, other in pairwise(lengths))
    assert all(len(set(drawn)) == 5 for drawn in lengths), "every position is drawn for someone"


@pytest.mark.parametrize("task", TASKS)
def test_without_texts_a_task_is_skipped_with_a_warning(task: str, caplog: pytest.LogCaptureFixture) -> None:
    assert make_examples(TaskSource(BARE, histories([0, 1, 2])), only(task)) == []
    assert f"task {task} is skipped" in caplog.text
