"""Kernel scoring: values against naive loops, and properties of samples and candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.metrics import top_k_metrics
from recsys.retrieval.scoring import (
    Candidates,
    Scoring,
    best_items,
    find_candidates,
    kernel_scores,
    nearest_distance,
)
from recsys.tables import FloatArray, IntArray

ITEMS, DIM = 30, 4


def latents() -> FloatArray:
    return np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(np.float32)


def exact(queries: FloatArray, k: int) -> IntArray:
    distances = np.square(queries[:, None] - latents()[None]).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def candidates(samples: FloatArray, num_neighbors: int = 5, excluded: list[IntArray] | None = None) -> Candidates:
    return find_candidates(samples, search=exact, latents=latents(), num_neighbors=num_neighbors, excluded=excluded)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, ITEMS), st.floats(0.05, 3.0), st.integers(0, 1000))
def test_candidates_and_scores_equal_loops(users: int, count: int, near: int, bandwidth: float, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal((users, count, DIM)).astype(np.float32)
    found = candidates(samples, near)
    kernel = kernel_scores(found.distances, bandwidth)
    for user in range(users):
        expected = sorted({int(i) for sample in samples[user] for i in exact(sample[None], near)[0]})
        assert [i for i in found.items[user] if i >= 0] == expected
        for place, item in enumerate(expected):
            squared = np.square(samples[user].astype(np.float64) - latents()[item]).sum(axis=1)
            assert found.distances[user, :, place] == pytest.approx(squared, abs=1e-4)
            peak = (-squared / (2 * bandwidth**2)).max()
            naive = peak + np.log(sum(np.exp(-d / (2 * bandwidth**2) - peak) for d in squared))
            assert kernel[user, place] == pytest.approx(naive, rel=1e-3, abs=0.05 / bandwidth**2)


def test_an_items_own_latent_ranks_it_first() -> None:
    found = candidates(latents()[:, None, :])
    top = best_items(found, Scoring(0.5).score(found), 3)
    assert top.items[:, 0].tolist() == list(range(ITEMS))
    assert (np.diff(top.scores, axis=1) <= 0).all()


def test_excluded_items_are_no_candidates_and_are_replaced() -> None:
    samples = latents()[:4, None, :]
    excluded = [np.array([user, user + 1]) for user in range(4)]
    found = candidates(samples, num_neighbors=5, excluded=excluded)
    for user in range(4):
        kept = found.items[user][found.items[user] >= 0]
        assert len(kept) >= 5
        assert not set(kept) & set(excluded[user])


def test_candidates_do_not_depend_on_the_exclusions_of_others() -> None:
    samples = np.random.default_rng(1).standard_normal((2, 3, DIM)).astype(np.float32)
    few, many = np.array([4]), np.arange(0, ITEMS, 2)
    together = candidates(samples, 3, [few, many])
    for user, excluded in enumerate((few, many)):
        alone = candidates(samples[user : user + 1], 3, [excluded])
        kept = together.items[user][together.items[user] >= 0]
        assert kept.tolist() == alone.items[0][alone.items[0] >= 0].tolist()


def test_more_samples_cover_more_tastes() -> None:
    generator = np.random.default_rng(1)
    tastes = generator.integers(0, ITEMS, size=(200, 3))
    targets = tastes[np.arange(200), generator.integers(0, 3, 200)]
    samples = latents()[tastes[:, generator.integers(0, 3, 16)]] + 0.1 * generator.standard_normal((200, 16, DIM))
    ndcg = []
    for count in (1, 16):
        found = candidates(samples[:, :count].astype(np.float32))
        ndcg.append(top_k_metrics(best_items(found, Scoring(0.3).score(found), 3).items, targets, k=3).ndcg)
    assert ndcg[1] > ndcg[0] + 0.1


def test_the_score_is_that_of_the_samples_alone() -> None:
    found = candidates(np.random.default_rng(3).standard_normal((3, 4, DIM)).astype(np.float32), num_neighbors=9)
    scores, listed = Scoring(0.6).score(found), found.items >= 0
    assert Scoring._fields == ("bandwidth",)
    assert scores[listed].tolist() == kernel_scores(found.distances, 0.6)[listed].tolist()
    assert np.isneginf(scores[~listed]).all()


def test_the_unit_of_a_bandwidth_is_the_distance_to_the_nearest_item() -> None:
    distances = np.array([[[9.0, 4.0, 1.0], [16.0, 25.0, 0.0]]], np.float32)
    assert nearest_distance(Candidates(np.array([[3, 8, -1]]), distances)) == pytest.approx(np.sqrt((4 + 16) / 2))
    assert nearest_distance(Candidates(np.array([[-1, -1, -1]]), distances)) == 1


def test_equal_scores_are_ordered_by_item_index() -> None:
    found = Candidates(np.array([[2, 5, 7, -1]]), np.ones((1, 1, 4), np.float32))
    assert best_items(found, Scoring(1.0).score(found), 3).items.tolist() == [[2, 5, 7]]


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="bandwidth=0"):
        kernel_scores(np.zeros((1, 1, 1), np.float32), 0)
