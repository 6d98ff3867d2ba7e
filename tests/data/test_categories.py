"""Category paths in text columns."""

import polars as pl
import pytest

from recsys.data.categories import CategoryCodes, category_paths, first_paths, item_categories
from recsys.tables import Catalog

FRAME = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "categories": ["A > B > C > D; E > F", None, "G|H", " ; > "]})


def test_paths_without_empty_parts() -> None:
    assert category_paths("A > B; C>D | E") == [("A", "B"), ("C", "D"), ("E",)]
    assert category_paths("; A > > B |") == [("A", "B")]
    assert category_paths(None) == category_paths("") == []


def test_an_item_is_labelled_by_the_beginning_of_its_first_path() -> None:
    assert item_categories(Catalog(FRAME)) == ["A > B > C", None, "G", None]
    assert first_paths(Catalog(FRAME)) == [("A", "B", "C", "D"), (), ("G",), ()]


@pytest.mark.parametrize("column", ["category", "genres", "genre"])
def test_columns_that_hold_categories(column: str) -> None:
    assert item_categories(Catalog(FRAME.rename({"categories": column}))) == ["A > B > C", None, "G", None]
    assert item_categories(Catalog(FRAME.rename({"categories": "colour"}))) is None


def test_categories_by_number_need_two_of_them() -> None:
    assert CategoryCodes.of_labels(None) is None
    assert CategoryCodes.of_labels(["a", "a", None]) is None
    found = CategoryCodes.of_labels(["b", None, "a"])
    assert found is not None
    assert (found.codes.tolist(), found.number) == ([1, -1, 0], 2)
