"""Kernel scoring: values against naive loops, and properties of samples, priors and tuning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.metrics import top_k_metrics
from recsys.retrieval.scoring import (
    BANDWIDTHS,
    Candidates,
    Scoring,
    best_items,
    category_agreement,
    find_candidates,
    kernel_scores,
    log_popularity,
    tune_scoring,
)
from recsys.tables import FloatArray, IntArray, TopItems

ITEMS, DIM = 30, 4


def latents() -> FloatArray:
    return np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(np.float32)


def exact(queries: FloatArray, k: int) -> IntArray:
    distances = np.square(queries[:, None] - latents()[None]).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def candidates(samples: FloatArray, num_neighbors: int = 5, excluded: list[IntArray] | None = None) -> Candidates:
    counts = np.arange(ITEMS)
    return find_candidates(
        samples,
        search=exact,
        latents=latents(),
        num_neighbors=num_neighbors,
        excluded=excluded,
        popularity=log_popularity(counts),
    )


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


def test_priors_add_up() -> None:
    found = candidates(latents()[:2, None, :], num_neighbors=ITEMS)
    plain, biased = Scoring(0.5).score(found), Scoring(0.5, popularity=0.3, agreement=2.0).score(found)
    assert biased - plain == pytest.approx(0.3 * found.popularity, abs=1e-4)
    heavy = best_items(found, Scoring(0.5, popularity=1000.0).score(found), 1)
    assert heavy.items[:, 0].tolist() == [ITEMS - 1, ITEMS - 1]


def test_category_agreement_by_hand() -> None:
    generated = TopItems(np.array([[0, 2, -1], [-1, -1, -1]]), np.log(np.array([[0.6, 0.2, 1], [1, 1, 1]], np.float32)))
    found = category_agreement(generated, np.array([0, 0, 1, -1]), 2)
    first = [0.9 * 0.75 + 0.05, 0.9 * 0.25 + 0.05]
    assert np.exp(found[0, :3]) == pytest.approx([first[0], first[0], first[1]], rel=1e-5)
    assert found[0, 3] == pytest.approx(np.log(first).mean(), rel=1e-5)
    assert len(set(found[1].tolist())) == 1, "a user without a generated item agrees with everything alike"


def test_tuning_measures_each_setting_as_ranking_would() -> None:
    generator = np.random.default_rng(2)
    samples = generator.standard_normal((40, 6, DIM)).astype(np.float32)
    targets = generator.integers(0, ITEMS, 40)
    agreement = generator.standard_normal((40, ITEMS)).astype(np.float32)
    batches = []
    for part in (slice(0, 25), slice(25, 40)):
        found = find_candidates(
            samples[part],
            search=exact,
            latents=latents(),
            num_neighbors=4,
            excluded=None,
            popularity=log_popularity(np.arange(ITEMS)),
            agreement=agreement[part],
        )
        batches.append((found, targets[part]))
    tried = tune_scoring(batches, agreement=True)
    assert [t.ndcg for t in tried] == sorted((t.ndcg for t in tried), reverse=True)
    for scoring, ndcg in tried[:: len(tried) // 10]:
        tops = [best_items(found, scoring.score(found), 10).items for found, _ in batches]
        assert ndcg == pytest.approx(top_k_metrics(np.concatenate(tops), targets, k=10).ndcg, abs=1e-6)


def two_candidates(*, agreement: float = 0.0, distance: float = 4.0) -> Candidates:
    """One user with the candidates 0 and 1, equal but for the agreement of candidate 1."""
    zeros = np.zeros((1, 2), np.float32)
    agreed = np.array([[0, agreement]], np.float32)
    return Candidates(np.array([[0, 1]]), np.full((1, 3, 2), distance, np.float32), zeros, agreed)


def test_the_agreement_prior_is_tuned_only_where_it_means_something() -> None:
    batches = [(two_candidates(agreement=1.0), np.array([1]))]
    with_prior, without = (tune_scoring(batches, agreement=flag) for flag in (True, False))
    assert with_prior[0].scoring.agreement > 0
    assert with_prior[0].ndcg == 1
    assert {found.scoring.agreement for found in without} == {0.0}


def test_of_equally_good_settings_the_one_with_the_smallest_priors_is_chosen() -> None:
    tried = tune_scoring([(two_candidates(), np.array([0]))], agreement=True)
    assert {found.ndcg for found in tried} == {1.0}
    assert (tried[0].scoring.popularity, tried[0].scoring.agreement) == (0, 0)


def test_bandwidths_are_multiples_of_the_distance_to_the_nearest_item() -> None:
    tried = tune_scoring([(two_candidates(distance=9.0), np.array([0]))], agreement=False)
    assert {found.scoring.bandwidth for found in tried} == {3.0 * factor for factor in BANDWIDTHS}


def test_log_popularity_is_standardized() -> None:
    assert log_popularity(np.array([0, 3])) == pytest.approx([-1, 1])
    assert log_popularity(np.array([5, 5])).tolist() == [0, 0]


def test_equal_scores_are_ordered_by_item_index() -> None:
    found = Candidates(np.array([[2, 5, 7, -1]]), np.ones((1, 1, 4), np.float32), *np.zeros((2, 1, 4), np.float32))
    assert best_items(found, Scoring(1.0).score(found), 3).items.tolist() == [[2, 5, 7]]


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="no validation users"):
        tune_scoring([], agreement=False)
    with pytest.raises(DataError, match="bandwidth=0"):
        kernel_scores(np.zeros((1, 1, 1), np.float32), 0)
