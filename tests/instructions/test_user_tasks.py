"""Intentions, queries and preferences: columns of the data, or composed from the catalogue."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.instructions.composition import CatalogTexts
from recsys.instructions.examples import Example
from recsys.instructions.source import TaskSource, user_preferences
from recsys.instructions.tasks import make_examples
from recsys.tables import Catalog, Histories, Users
from tests.instructions.shop import BARE, BLUE, CATALOG, GLASS, IRON, NAMELESS, POT, RAKE, RED, histories, only

TEXTS = CatalogTexts(CATALOG)
GIVEN = histories([RED, GLASS], [POT, BLUE])
STATED = pl.Series([None, "a lid", None, None], dtype=pl.String)
LISTS = st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=6)


def source_of(given: Histories = GIVEN, catalog: Catalog = CATALOG, stated: pl.Series | None = STATED) -> TaskSource:
    return TaskSource(catalog, given, 6, stated)


def test_an_intention_is_the_datas_own_and_composed_where_there_is_none() -> None:
    assert make_examples(source_of(), only("intention")) == [
        Example("intention", (RED,), GLASS, "a lid", source="columns"),
        Example("intention", (POT,), BLUE, "Pans, Ola", source="composed"),
    ]


def test_columns_alone_and_composed_alone() -> None:
    columns = make_examples(source_of(), only("intention", "query_to_id", intention="columns"))
    assert columns == [
        Example("intention", (RED,), GLASS, "a lid", source="columns"),
        Example("query_to_id", (), GLASS, "a lid", source="columns"),
    ]
    composed = make_examples(source_of(), only("intention", intention="composed"))
    assert [(e.text, e.source) for e in composed] == [("lid, Lids", "composed"), ("Pans, Ola", "composed")]


def test_a_query_alone_has_no_history_and_may_be_of_a_users_first_item() -> None:
    first = pl.Series(["a pan", None, None, "iron"], dtype=pl.String)
    assert make_examples(source_of(stated=first), only("query_to_id")) == [
        Example("query_to_id", (), RED, "a pan", source="columns"),
        Example("query_to_id", (), BLUE, "iron", source="columns"),
    ]


@pytest.mark.parametrize("item", range(7))
def test_a_composed_intention_has_words_of_its_item_alone(item: int) -> None:
    row = CATALOG.frame.row(item, named=True)
    own = " ".join(filter(None, (row["title"], row["brand"], row["categories"]))).lower()
    for form in range(6):
        text = TEXTS.intention(item, form)
        assert all(word in own for word in text.lower().replace(",", "").split())
        assert text == CatalogTexts(CATALOG).intention(item, form)


def test_composed_intentions_take_several_forms_and_leave_out_what_identifies_one_item() -> None:
    assert [TEXTS.intention(RED, form) for form in range(3)] == ["Pans, Ola", "iron pan, Pans", "iron pan, Ola"]
    assert [TEXTS.intention(GLASS, form) for form in range(3)] == ["Lids, Bo", "lid, Lids", "lid, Bo"]
    assert [TEXTS.intention(POT, form) for form in range(3)] == ["Pots, Ola", "Pots", "Ola"]
    assert TEXTS.intention(RAKE, 0) == TEXTS.intention(NAMELESS, 0) == ""
    assert TEXTS.described.tolist() == [True] * 5 + [False] * 2


def test_genres_of_a_list_are_categories_and_commas_of_paths_separate_none() -> None:
    films = Catalog(pl.DataFrame({"item_id": ["x", "y"], "genres": ["Drama, War", "War, Comedy"]}))
    assert CatalogTexts(films).preference([0, 1]) == "Categories: War."
    assert CatalogTexts(films).intention(0, 0) == "Drama"
    shop = Catalog(pl.DataFrame({"item_id": ["x"], "categories": ["Home > Pots, Pans; Garden"], "title": ["Pan"]}))
    assert CatalogTexts(shop).intention(0, 0) == "Pots, Pans"


def test_a_composed_preference_is_what_items_of_the_history_share() -> None:
    assert TEXTS.preference([RED, POT, BLUE]) == "Categories: Pans. Brand: Ola. Words: pan, iron."
    assert TEXTS.preference([IRON, GLASS, RAKE]) == "Categories: Lids. Brand: Bo. Words: lid."
    assert TEXTS.preference([RED, RED, RED]) == TEXTS.preference([POT, RAKE, NAMELESS]) == ""


def test_a_preference_is_the_users_own_and_composed_where_there_is_none() -> None:
    given = histories([RED, BLUE], [GLASS, RAKE], [GLASS, IRON], [POT])
    users = Users(pl.DataFrame({"user_id": ["u1", "other", "u3"], "preference": ["Gardens.", "x", "Soup."]}))
    stated = user_preferences(users, given)
    source = TaskSource(CATALOG, given, 6, preferences=stated)
    own = Example("preference", (GLASS, RAKE), text="Gardens.", source="columns")
    composed = Example("preference", (RED, BLUE), text="Categories: Pans. Brand: Ola. Words: pan, iron.")
    lids = Example("preference", (GLASS, IRON), text="Categories: Lids. Brand: Bo. Words: lid.")

    def sources(mode: str) -> list[tuple[tuple[int, ...], str, str]]:
        return [(e.history, e.text, e.source) for e in make_examples(source, only("preference", preference=mode))]

    of_own = (own.history, own.text, "columns")
    of_others = [(e.history, e.text, "composed") for e in (composed, lids)]
    assert sources("auto") == [of_others[0], of_own, of_others[1]]
    assert sources("columns") == [of_own]
    assert sources("composed") == of_others


def test_users_without_such_a_column_state_nothing() -> None:
    assert user_preferences(None, GIVEN) is None
    assert user_preferences(Users(pl.DataFrame({"user_id": ["u0"], "city": ["Rome"]})), GIVEN) is None


@given(LISTS, st.integers(2, 6))
@settings(deadline=None, max_examples=40)
def test_no_prompt_holds_its_answer_and_each_window_has_one_preference_at_most(
    lists: list[list[int]], window: int
) -> None:
    source = TaskSource(CATALOG, histories(*lists), window)
    windows = [tuple(items[max(0, end - window) : end]) for items in lists for end in range(len(items), 0, -window)]
    found = make_examples(source, only("intention", "preference"))
    for example in found:
        if example.task == "intention":
            assert example.item is not None
            assert example.item not in example.history
            assert example.history
            assert any(part[: len(example.history) + 1] == (*example.history, example.item) for part in windows)
        else:
            assert example.item is None
            assert example.text == TEXTS.preference(example.history)
    preferences = Counter(e.history for e in found if e.task == "preference")
    assert preferences == Counter(part for part in windows if len(part) > 1 and TEXTS.preference(part))


@pytest.mark.parametrize("task", ["intention", "query_to_id", "preference"])
@pytest.mark.parametrize("mode", ["auto", "columns", "composed"])
def test_without_inputs_a_task_is_skipped_with_a_warning(
    task: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(catalog=BARE if mode != "columns" else CATALOG, stated=None)
    assert make_examples(source, only(task, intention=mode, preference=mode)) == []
    assert f"task {task} is skipped" in caplog.text
