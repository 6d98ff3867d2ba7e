"""Search by prefixes of words, without case, width and accents."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.titles import TitleIndex, words

TITLES = ["Red Shoe", "Shoe polish, red", "Crème brûlée", "ＲＥＤ wine", "", "Red", "redhead"]
NONE = np.zeros(len(TITLES), dtype=np.int64)


def test_every_word_must_begin_one_and_titles_that_begin_so_come_first() -> None:
    index = TitleIndex(TITLES)
    assert index.search("red", NONE, 10) == [0, 3, 5, 6, 1]
    assert index.search("RED sh", NONE, 10) == [0, 1]
    assert index.search("creme bru", NONE, 10) == [2]
    assert index.search("red", NONE, 2) == [0, 3]
    assert index.search("nothing", NONE, 10) == index.search(" ,.", NONE, 10) == index.search("", NONE, 10) == []


def test_of_equal_matches_the_most_popular_item_comes_first() -> None:
    popularity = NONE.copy()
    popularity[5] = 3
    assert TitleIndex(TITLES).search("red", popularity, 3) == [5, 0, 3]


@given(st.lists(st.text(max_size=20), max_size=8), st.text(max_size=6))
def test_agrees_with_looking_at_every_title(titles: list[str], text: str) -> None:
    asked = words(text)
    plain = {
        i for i, title in enumerate(titles) if asked and all(any(w.startswith(a) for w in words(title)) for a in asked)
    }
    assert set(TitleIndex(titles).search(text, np.zeros(len(titles), np.int64), 100)) == plain
