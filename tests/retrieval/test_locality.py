"""The order of items in memory: a permutation with near items side by side."""

import numpy as np
import pytest

from recsys.retrieval.locality import locality_order
from tests.retrieval.conftest import clustered


@pytest.mark.parametrize("count", [0, 1, 50, 900])
def test_it_is_a_permutation(count: int) -> None:
    order = locality_order(clustered(count), seed=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_adjacent_items_are_near() -> None:
    vectors = clustered(900)
    ordered = vectors[locality_order(vectors, seed=0)]

    def step(rows: np.ndarray) -> float:
        return float(np.square(np.diff(rows, axis=0)).sum(axis=1).mean())

    assert step(ordered) < 0.5 * step(vectors)
