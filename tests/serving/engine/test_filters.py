"""Columns with few, shared values can be filtered by; paths also by their prefixes."""

import polars as pl
import pytest

from recsys.errors import DataError
from recsys.tables import Catalog
from serving.engine.filters import FilterIndex

CATALOG = Catalog(
    pl.DataFrame(
        {
            "item_id": [str(i) for i in range(6)],
            "title": ["same"] * 6,
            "categories": ["A > B", "A > B > C", "A", "D; A > B", None, "D"],
            "genres": ["x|y", "x", "y", "x", "y", ""],
            "description": [f"text {i}" for i in range(6)],
        }
    )
)


def test_free_text_and_titles_are_no_filters() -> None:
    assert FilterIndex(CATALOG).columns == ("categories", "genres")


def test_a_path_is_found_under_each_beginning() -> None:
    filter_index = FilterIndex(CATALOG)
    assert filter_index.mask("categories", ["A"]).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert filter_index.mask("categories", ["A > B"]).nonzero()[0].tolist() == [0, 1, 3]
    assert filter_index.mask("categories", ["D", "A > B > C"]).nonzero()[0].tolist() == [1, 3, 5]
    assert not filter_index.mask("categories", ["B"]).any()
    assert filter_index.values("categories", 2) == (("A", 4), ("A > B", 3))
    assert filter_index.values("genres", 9) == (("x", 3), ("y", 3))


def test_an_unknown_column_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"'colour' cannot be filtered by; filter columns are: categories, genres"):
        FilterIndex(CATALOG).mask("colour", ["red"])


def test_a_filter_stays_one_whatever_is_added() -> None:
    filter_index = FilterIndex(CATALOG)
    rows = pl.DataFrame({"item_id": [f"new {i}" for i in range(9)], "genres": [*map(str, range(8)), "x" * 300]})
    grown = FilterIndex(Catalog(pl.concat([CATALOG.frame, rows], how="diagonal")), filter_index.columns)
    assert grown.columns == filter_index.columns
    assert grown.mask("genres", ["x", "3"]).nonzero()[0].tolist() == [0, 1, 3, 9]


def test_an_unknown_column_is_refused_without_values_too() -> None:
    with pytest.raises(DataError, match="colour"):
        FilterIndex(CATALOG).mask("colour", [])
