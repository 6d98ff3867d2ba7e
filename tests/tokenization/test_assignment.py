from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.tables import FloatArray
from recsys.tokenization.assignment import free_codes, nearest_codes, unique_codes


def gaussian(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    levels=st.integers(1, 3),
    num_codes=st.integers(1, 4),
    filled=st.floats(0, 1),
    kinds=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_codes_are_unique_up_to_the_last_place(
    levels: int, num_codes: int, filled: float, kinds: int, seed: int
) -> None:
    count = round(filled * num_codes**levels)
    few = gaussian(seed, kinds, 2)[np.random.default_rng(seed).integers(kinds, size=count)]
    codes = unique_codes(few, gaussian(seed + 1, levels, num_codes, 2))
    assert codes.shape == (count, levels)
    assert len(np.unique(codes, axis=0)) == count


def test_items_apart_keep_their_nearest_codes() -> None:
    codebooks = np.array([[[0, 0], [10, 0]], [[0, 0], [0, 3]]], dtype=np.float32)
    points = np.array([[0, 0], [0, 3], [10, 0], [10, 3]], dtype=np.float32) + np.float32(0.1)
    np.testing.assert_array_equal(unique_codes(points, codebooks), [[0, 0], [0, 1], [1, 0], [1, 1]])


def test_codes_without_rivals_are_the_greedy_residual_codes() -> None:
    latents, codebooks = gaussian(0, 12, 3), gaussian(1, 4, 16, 3)
    expected = np.empty((12, 4), dtype=np.int64)
    for row, residual in enumerate(latents):
        for level, codebook in enumerate(codebooks):
            expected[row, level] = np.square(residual - codebook).sum(axis=1).argmin()
            residual = residual - codebook[expected[row, level]]
    assert len(np.unique(expected, axis=0)) == 12
    np.testing.assert_array_equal(unique_codes(latents, codebooks), expected)
    np.testing.assert_array_equal(free_codes(latents, codebooks, np.empty((0, 4), np.int64)), expected)


def test_a_bucket_is_assigned_at_the_least_total_cost() -> None:
    points, codebook = gaussian(3, 4, 2), gaussian(4, 6, 2)
    codes = unique_codes(points, codebook[None])[:, 0]
    costs = np.square(points[:, None] - codebook[None]).sum(axis=2)
    best = min(costs[range(4), list(choice)].sum() for choice in permutations(range(6), 4))
    assert costs[range(4), codes].sum() == pytest.approx(best, rel=1e-5)


def test_a_full_bucket_spills_its_farthest_items_to_the_next_best_code_above() -> None:
    codebooks = np.array([[[0.0], [4.0], [9.0]], [[0.0], [0.1], [0.2]]], dtype=np.float32)
    points = np.array([[0.0], [0.1], [0.2], [0.3], [0.4]], dtype=np.float32)  # room for three under code 0
    codes = unique_codes(points, codebooks)
    np.testing.assert_array_equal(codes[:, 0], [0, 0, 0, 1, 1])
    assert len(np.unique(codes, axis=0)) == 5


def test_more_items_than_ids_are_refused() -> None:
    with pytest.raises(DataError, match=r"5 items do not fit 2 levels of 2 codes, which name 4"):
        unique_codes(gaussian(0, 5, 3), gaussian(1, 2, 2, 3))


def test_nearest_codes_agree_with_the_plain_distance() -> None:
    residual, codebook = gaussian(5, 50, 3), gaussian(6, 8, 3)
    plain = np.square(residual[:, None] - codebook[None]).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest_codes(residual, codebook), plain)


@settings(deadline=None, max_examples=40)
@given(levels=st.integers(1, 3), num_codes=st.integers(1, 4), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_new_rows_get_free_codes_beside_those_in_use(levels: int, num_codes: int, share: float, seed: int) -> None:
    total = num_codes**levels
    codebooks = gaussian(seed, levels, num_codes, 2)
    taken = unique_codes(gaussian(seed + 1, round(share * total), 2), codebooks)
    found = free_codes(gaussian(seed + 2, total - len(taken), 2), codebooks, taken)
    together = np.concatenate([taken, found])
    assert len(np.unique(together, axis=0)) == len(together) == total


def test_a_new_row_gets_its_nearest_codes_where_they_are_free() -> None:
    codebooks = np.array([[[0, 0], [10, 0]], [[0, 0], [0, 3]]], dtype=np.float32)
    points = np.array([[10, 3], [0, 0], [0, 0], [0, 0]], dtype=np.float32)
    nothing = np.empty((0, 2), dtype=np.int64)
    np.testing.assert_array_equal(free_codes(points, codebooks, nothing), [[1, 1], [0, 0], [0, 1], [1, 0]])
    with pytest.raises(DataError, match="1 new items beside 4 do not fit 2 levels of 2 codes"):
        free_codes(points[:1], codebooks, unique_codes(points, codebooks))
