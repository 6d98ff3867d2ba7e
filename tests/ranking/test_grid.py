"""The best values of a grid, and how it is widened where they lie at an edge."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.grid import choose, ratios, steps


@given(st.integers(-20, 20))
def test_a_grid_is_widened_until_the_best_value_lies_inside(peak: int) -> None:
    best = choose({"w": steps(0.1, -1, 3, lowest=-100, highest=100)}, lambda v: -abs(v["w"] - peak / 10))
    assert best == ({"w": pytest.approx(peak / 10)}, pytest.approx(0), ())


@pytest.mark.parametrize(("slope", "end"), [(1, 16.0), (-1, 0.25)])
def test_a_value_at_the_last_one_allowed_is_named(slope: int, end: float) -> None:
    best = choose({"b": ratios(2, 0, 1, lowest=-2, highest=4)}, lambda v: slope * v["b"])
    assert (best.values, best.at_edge) == ({"b": end}, ("b",))


def test_a_value_inside_is_not_widened_and_nothing_is_tried_twice() -> None:
    tried = list[tuple[float, ...]]()

    def score(values: Mapping[str, float]) -> float:
        tried.append(tuple(values.values()))
        return -((values["a"] - 0.2) ** 2) - (values["b"] - 2) ** 2

    grids = {"a": steps(0.1, -1, 5, lowest=-1, highest=50), "b": ratios(2, 0, 1, lowest=0, highest=5)}
    assert choose(grids, score).values == {"a": 0.2, "b": 2}
    # b=2 was the last one, so that b=4 was tried too, with every a.
    assert sorted(tried) == sorted(product([-0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 4]))


def test_of_equals_the_values_nearest_to_number_0_are_chosen() -> None:
    grids = {"a": steps(0.5, -1, 5, lowest=-1, highest=9), "b": ratios(2, -3, 2, lowest=-3, highest=2)}
    assert choose(grids, lambda _: 0.5) == ({"a": 0, "b": 1}, 0.5, ())
    assert choose(grids, lambda v: float(v["a"] >= 1)).values == {"a": 1, "b": 1}


@given(st.tuples(st.floats(-0.3, 0.9), st.floats(-0.3, 0.9)), st.floats(-1, 1))
def test_parameters_that_depend_on_each_other_are_tried_together(peak: tuple[float, float], twist: float) -> None:
    def score(values: Mapping[str, float]) -> float:
        a, b = values["a"] - peak[0], values["b"] - peak[1]
        return -(a * a) - b * b - twist * a * b

    grid = steps(0.1, -4, 10, lowest=-4, highest=10)
    naive = max(score({"a": a / 10, "b": b / 10}) for a in range(-4, 11) for b in range(-4, 11))
    assert choose({"a": grid, "b": grid}, score).score == pytest.approx(naive)
