"""The order of items in memory: a permutation that puts near ones side by side and changes no answer."""

import numpy as np
import pytest

from recsys.retrieval.locality import near_together
from tests.retrieval.conftest import clustered


@pytest.mark.parametrize("count", [0, 1, 50, 900])
def test_it_is_a_permutation(count: int) -> None:
    order = near_together(clustered(count), seed=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_neighbours_in_memory_are_near() -> None:
    vectors = clustered(900)
    ordered = vectors[near_together(vectors, seed=0)]

    def step(rows: np.ndarray) -> float:
        return float(np.square(np.diff(rows, axis=0)).sum(axis=1).mean())

    assert step(ordered) < 0.5 * step(vectors)
