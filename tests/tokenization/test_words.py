"""The words of a code are those of its items that the other items do not have."""

import numpy as np
import pytest

from recsys.tables import SemanticIds
from recsys.tokenization.words import CodeWords

TEXTS = [
    *(f"Acoustic guitar with {wood} strings" for wood in ("steel", "nylon", "bronze", "coated")),
    *(f"Camping tent with {size} poles, model {n}0" for n, size in enumerate(("two", "three", "four", "five"))),
    *(f"Fountain pen with {ink} ink" for ink in ("steel", "blue", "black", "red")),
]
IDS = SemanticIds(
    [f"i{n}" for n in range(12)], np.array([[n // 4, n % 4] for n in range(12)]), num_codes=6
)  # level 0: the kind of thing; level 1: nothing that texts tell


def test_words_are_common_to_the_items_of_a_code_and_rare_elsewhere() -> None:
    words = CodeWords(TEXTS, IDS).of([(0, 0), (0, 1), (0, 2)])
    assert words == {
        (0, 0): ("acoustic", "guitar", "strings"),
        (0, 1): ("camping", "model", "poles"),
        (0, 2): ("fountain", "ink", "pen"),
    }


def test_words_of_all_items_or_of_one_of_several_say_nothing() -> None:
    found = CodeWords(TEXTS, IDS).of([(0, 0), (1, 0), (0, 5)], count=10)
    assert found[0, 0] == ("acoustic", "guitar", "strings")
    assert "with" not in found[1, 0]
    assert found[1, 0] == ("steel",), "two of its three items have it, and no other"
    assert found[0, 5] == (), "no item carries the code"


def test_a_code_of_one_item_has_the_words_of_its_text() -> None:
    codes = np.array([[n] for n in range(12)])
    found = CodeWords(TEXTS, SemanticIds(IDS.item_ids, codes, 12)).of([(0, 1), (0, 9)])
    assert found == {(0, 1): ("nylon", "acoustic", "guitar"), (0, 9): ("blue", "fountain", "ink")}


@pytest.mark.parametrize("text", ["", "12 34 a_b x9 7"])
def test_texts_without_words_have_none(text: str) -> None:
    assert CodeWords([text] * 12, IDS).of([(0, 0)]) == {(0, 0): ()}
