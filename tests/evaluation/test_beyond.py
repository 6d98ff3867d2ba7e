"""Coverage, inequality, popularity and variety, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from recsys.evaluation.beyond import beyond_accuracy, gini
from recsys.evaluation.slices import categories
from recsys.tables import Catalog, Histories
from tests.evaluation import fakes


def test_figures_by_hand() -> None:
    items = np.array([[0, 3], [0, -1]])
    found = beyond_accuracy(
        items,
        histories=Histories.from_lists(["x", "y"], [[0, 1], [2]]),
        popularity=fakes.POPULARITY,
        categories=categories(fakes.catalog()),
    )
    assert found.coverage == 2 / 6
    assert found.popularity == pytest.approx((8 + 1 + 8) / 3)
    assert found.popularity_lift == pytest.approx(((8 + 1) / 2 + 8) / (6 + 2))
    assert found.novelty == pytest.approx(-(2 * math.log2(9 / 22) + math.log2(2 / 22)) / 3)
    assert found.diversity == 1.0  # the one pair: kitchen and light
    assert found.seen == pytest.approx(1 / 3)
    assert found.miscalibration == pytest.approx((math.log2(1 / (0.99 * 0.5 + 0.01)) + 0) / 2)


def test_nothing_shown_has_no_means() -> None:
    empty = np.full((1, 3), -1)
    found = beyond_accuracy(
        empty, histories=Histories.from_lists(["x"], [[0]]), popularity=fakes.POPULARITY, categories=None
    )
    assert (found.coverage, found.gini, found.popularity, found.popularity_lift) == (0.0, 0.0, None, None)


def test_gini_ends() -> None:
    assert gini(np.array([3, 3, 3, 3])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)


def test_categories_take_the_first_level_that_divides() -> None:
    found = categories(fakes.catalog())
    assert found is not None
    assert (found.labels, found.level) == (["Kitchen", "Light"], 1)
    assert found.codes.tolist() == [0, 0, 0, 1, 1, -1]


def test_a_value_that_nearly_all_items_share_does_not_divide_them() -> None:
    paths = ["A > B"] * 50 + ["A > C"] * 45 + ["D"] * 5
    found = categories(catalog_of(paths))
    assert found is not None
    assert (found.labels, found.level) == (["B", "C"], 1)


def test_rare_categories_are_gathered_in_the_last() -> None:
    found = categories(catalog_of([chr(65 + number) for number in range(15) for _ in range(15 - number)]))
    assert found is not None
    assert found.labels == [*"ABCDEFGHIJKL", "other"]
    assert np.bincount(found.codes)[-2:].tolist() == [4, 3 + 2 + 1]


def test_diversity_counts_pairs() -> None:
    kitchen, light = [0, 1, 2], [3, 4]
    items = np.array([[kitchen[0], kitchen[1], light[0]], [*light, -1]])
    found = beyond_accuracy(
        items,
        histories=Histories.from_lists(["x", "y"], [[], []]),
        popularity=fakes.POPULARITY,
        categories=categories(fakes.catalog()),
    )
    assert found.diversity == pytest.approx((2 / 3 + 0) / 2)


def catalog_of(paths: list[str]) -> Catalog:
    return Catalog(pl.DataFrame({"item_id": [f"i{n}" for n in range(len(paths))], "categories": paths}))
