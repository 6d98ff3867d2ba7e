"""Examples cover what they should and survive a round trip; templates are well formed."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.instructions.config import InstructConfig, TaskWeights
from recsys.instructions.examples import Example, load_examples, save_examples
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import TASKS, make_examples
from recsys.instructions.templates import load_templates, parse
from recsys.tables import Catalog, Histories
from tests.instructions.shop import BLUE, CATALOG, GLASS, IRON, POT, RAKE, RED, histories, only


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(
        pl.DataFrame(
            {
                "item_id": ["a", "b", "c", "d"],
                "title": ["Red pan", None, "Blue pan", "Lid"],
                "brand": ["Ola", "Bo", None, "Ola"],
            }
        )
    )


@given(st.lists(st.integers(0, 99), max_size=40), st.integers(2, 12))
@settings(deadline=None, max_examples=50)
def test_windows_hold_every_item_of_a_history_once_and_in_order(items: list[int], window: int) -> None:
    histories = Histories.from_lists(["u"], [items])
    names = Catalog(pl.DataFrame({"item_id": [str(i) for i in range(100)]}))
    found = list(TASKS["sequential"](TaskSource(names, histories, window), InstructConfig()))
    joined = [item for example in reversed(found) for item in example.history]
    rest = len(items) - len(joined)
    assert rest in (0, 1), "only a window of a single item, which has no input, may be left out"
    assert joined == items[rest:]
    assert all(2 <= len(e.history) <= window for e in found)


def test_an_item_has_one_example_for_each_of_its_texts(catalog: Catalog) -> None:
    source = TaskSource(catalog, Histories.from_lists([], []))
    found = {(e.item, e.text) for e in TASKS["item_to_id"](source, InstructConfig())}
    assert found == {
        (0, "Red pan"),
        (0, "Ola"),
        (0, "Red pan. Ola"),
        (1, "Bo"),
        (2, "Blue pan"),
        (3, "Lid"),
        (3, "Ola"),
        (3, "Lid. Ola"),
    }


def test_a_task_without_inputs_is_skipped_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    bare = Catalog(pl.DataFrame({"item_id": ["a", "b"]}))
    source = TaskSource(bare, Histories.from_lists(["u"], [[0, 1, 0]]))
    assert {e.task for e in make_examples(source, InstructConfig())} == {"sequential"}
    assert "item_to_id is skipped" in caplog.text


@pytest.mark.parametrize("name", TASKS)
def test_any_task_can_be_made_alone_and_one_of_weight_zero_makes_nothing(name: str) -> None:
    source = TaskSource(CATALOG, histories([RED, BLUE, GLASS, POT]))
    assert {e.task for e in make_examples(source, only(name))} == {name}
    assert make_examples(source, only(name, weight=0.0)) == []


def test_without_a_configuration_the_tasks_are_the_first_three(catalog: Catalog) -> None:
    source = TaskSource(catalog, Histories.from_lists(["u"], [[0, 1, 2]]))
    config = InstructConfig(weights=TaskWeights(id_to_item=0))
    assert {e.task for e in make_examples(source, config)} == {"sequential", "item_to_id"}
    assert {e.task for e in make_examples(source, InstructConfig())} == {"sequential", "item_to_id", "id_to_item"}


def test_examples_survive_a_round_trip_with_the_users_own_ids(catalog: Catalog, tmp_path: Path) -> None:
    source = TaskSource(catalog, Histories.from_lists(["u", "v"], [np.array([0, 3, 2]), np.array([1, 2])]))
    examples = make_examples(source, InstructConfig())
    path = tmp_path / "instructions.parquet"
    save_examples(examples, catalog, path)
    assert load_examples(path, catalog) == examples
    assert pl.read_parquet(path).row(0, named=True)["history"] == ["a", "d", "c"]


def test_titles_and_sources_survive_a_round_trip_and_are_columns_only_where_there_are_any(tmp_path: Path) -> None:
    examples = [
        Example("titles_to_id", item=POT, titles=("Red iron pan", "Glass lid")),
        Example("titles_to_id", item=RED, titles=("Glass lid",)),
        Example("preference", (RED, BLUE), text="Pans.", source="composed"),
        Example("sequential", (RED, BLUE), weights=(0.5, 1.5)),
    ]
    path = tmp_path / "instructions.parquet"
    save_examples(examples, CATALOG, path)
    loaded = load_examples(path, CATALOG)
    assert loaded == examples
    assert loaded[0].titles[1] is loaded[1].titles[0], "a title of many histories is kept once"
    save_examples(make_examples(TaskSource(CATALOG, histories([RED, POT])), InstructConfig()), CATALOG, path)
    assert pl.read_parquet(path).columns == ["task", "history", "item", "text"], "as files of earlier versions"
    assert not any(e.titles or e.source or e.weights for e in load_examples(path, CATALOG))


def test_items_that_users_chose_are_predicted() -> None:
    assert Example("sequential", (RED, BLUE, POT), weights=(1, 0, 2)).targets == (RED, POT)
    assert Example("sequential", (RED, BLUE)).targets == (RED, BLUE)
    assert Example("intention", (RED, BLUE), POT, "soup").targets == (POT,), "a user chose it"
    assert Example("item_to_id", item=POT).targets == Example("preference", (RED,)).targets == ()


@pytest.mark.parametrize("name", TASKS)
def test_templates_have_exactly_the_fields_that_their_task_fills(name: str) -> None:
    source = TaskSource(CATALOG, histories([RED, BLUE, GLASS, POT], [RAKE, IRON, BLUE]))
    for example in make_examples(source, only(name)):
        values = {"history": example.history, "item": example.item, "text": example.text, "titles": example.titles}
        filled = {field for field, value in values.items() if value not in ((), None, "")}
        for template in load_templates()[name]:
            fields = [value for kind, value in (*template.prompt, *template.response) if kind == "field"]
            assert sorted(fields) == sorted(filled)
            assert [kind for kind, _ in template.response] == ["field"]


def test_templates_are_all_different_and_fields_are_apart_from_words() -> None:
    for name, rows in load_templates().items():
        assert len({row.prompt for row in rows}) == len(rows), name
        for row in rows:
            assert all("{" not in words and "}" not in words for kind, words in row.prompt if kind == "text"), name


def test_every_task_has_templates_and_the_sequential_ones_end_with_the_history() -> None:
    templates = load_templates()
    assert templates.keys() == TASKS.keys() == TaskWeights.model_fields.keys()
    assert all(len(rows) >= 12 for rows in templates.values())
    for template in templates["sequential"]:
        assert template.response == (("field", "history"),)
        assert all(kind == "text" for kind, _ in template.prompt)


def test_parse_keeps_the_text_around_fields() -> None:
    assert parse("a {item} b{text}") == (("text", "a "), ("field", "item"), ("text", " b"), ("field", "text"))
