"""Intervals and p-values: calibrated under the null hypothesis, smallest where every user differs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation import significance
from recsys.evaluation.significance import (
    bootstrap_means,
    bootstrap_means_of_seeds,
    holm,
    least_p_value,
    percentile_interval,
    sign_flip_p_value,
)


def test_p_values_of_equal_systems_are_uniform() -> None:
    generator = np.random.default_rng(0)
    p = np.array([sign_flip_p_value(generator.normal(size=60), resamples=199, generator=generator) for _ in range(400)])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.033)  # three standard errors
    assert p.mean() == pytest.approx(0.5, abs=0.045)


def test_p_value_agrees_with_all_sign_flips() -> None:
    differences = np.array([0.5, -0.1, 0.4, 0.3, 0.0, 0.2, 0.6])
    flips = np.array(list(product([-1, 1], repeat=7)))
    exact = (np.abs(flips @ differences) >= abs(differences.sum()) - 1e-12).mean()
    p = sign_flip_p_value(differences, resamples=20_000, generator=np.random.default_rng(1))
    assert p == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("block", [1, 700, 10_000])
def test_all_resamples_count_however_many_fit_into_memory(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "VALUES_A_BLOCK", 3 * block)
    p = sign_flip_p_value(np.ones(3), resamples=2000, generator=np.random.default_rng(0))
    assert p == pytest.approx(0.25, abs=0.03)


def test_sums_that_differ_by_rounding_alone_are_equal() -> None:
    p = sign_flip_p_value(np.array([0.7, 0.1, 0.2, 0.3]), resamples=4000, generator=np.random.default_rng(0))
    assert p == pytest.approx(2 / 16, abs=0.02)


def test_no_difference_at_all_has_p_one() -> None:
    assert sign_flip_p_value(np.zeros(5), resamples=100, generator=np.random.default_rng(0)) == 1.0


def test_a_clear_difference_has_the_least_p() -> None:
    assert sign_flip_p_value(np.ones(50), resamples=99, generator=np.random.default_rng(0)) == 1 / 100


def test_bootstrap_spreads_as_the_standard_error_and_covers_the_mean() -> None:
    generator = np.random.default_rng(2)
    values = np.stack([generator.random(900) < 0.1, generator.random(900)], axis=1).astype(float)
    samples = bootstrap_means(values, resamples=3000, generator=generator)
    assert samples.mean(axis=0) == pytest.approx(values.mean(axis=0), rel=0.02)
    assert samples.std(axis=0) == pytest.approx(values.std(axis=0) / 30, rel=0.07)
    low, high = percentile_interval(samples, 0.95)
    assert ((low < values.mean(axis=0)) & (values.mean(axis=0) < high)).all()


def test_interval_ends_are_quantiles_by_hand() -> None:
    low, high = percentile_interval(np.arange(101.0)[:, None], 0.9)
    assert (low.tolist(), high.tolist()) == (pytest.approx([5]), pytest.approx([95]))


def test_bootstrap_leaves_users_without_hits_in_the_mean() -> None:
    values = np.concatenate([np.ones((10, 1)), np.zeros((90, 1))])
    samples = bootstrap_means(values, resamples=2000, generator=np.random.default_rng(3))
    assert samples.mean() == pytest.approx(0.1, abs=0.003)
    assert samples.std() == pytest.approx(0.03, rel=0.1)  # sqrt(0.1 * 0.9 / 100)
    assert not bootstrap_means(np.zeros((5, 2)), resamples=3, generator=np.random.default_rng(3)).any()


def naive_means_of_seeds(values: np.ndarray, *, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw users, and one seed fewer than there are, and average what they have in common."""
    num_seeds, num_users, _ = values.shape
    means = []
    for _ in range(resamples):
        seeds = generator.integers(0, num_seeds, size=num_seeds - 1)
        users = generator.integers(0, num_users, size=num_users)
        means.append(values[np.ix_(seeds, users)].mean(axis=(0, 1)))
    return np.array(means)


def test_bootstrap_of_seeds_agrees_with_a_naive_one() -> None:
    generator = np.random.default_rng(4)
    values = generator.random((3, 40, 2)) < np.array([0.2, 0.3, 0.6])[:, None, None] * np.array([1, 0.5])
    samples = bootstrap_means_of_seeds(values.astype(float), resamples=6000, generator=generator)
    naive = naive_means_of_seeds(values, resamples=6000, generator=generator)
    assert samples.shape == naive.shape
    assert samples.mean(axis=0) == pytest.approx(naive.mean(axis=0), rel=0.03)
    assert samples.std(axis=0) == pytest.approx(naive.std(axis=0), rel=0.05)
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(np.corrcoef(naive.T)[0, 1], abs=0.05)


def test_seeds_that_differ_spread_as_the_standard_error_of_their_mean() -> None:
    means = np.array([0.2, 0.5, 0.3])
    values = np.tile(means[:, None, None], (1, 50, 1))  # users do not differ, so that seeds alone do
    samples = bootstrap_means_of_seeds(values, resamples=20_000, generator=np.random.default_rng(5))
    assert samples.mean() == pytest.approx(means.mean(), rel=0.01)
    assert samples.std() == pytest.approx(means.std(ddof=1) / np.sqrt(3), rel=0.02)


def test_equal_seeds_spread_as_their_users_do() -> None:
    users = np.random.default_rng(6).random((900, 1))
    samples = bootstrap_means_of_seeds(np.stack([users] * 3), resamples=4000, generator=np.random.default_rng(7))
    assert samples.std() == pytest.approx(users.std() / 30, rel=0.05)


def test_one_seed_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="got 1 seed; two or more"):
        bootstrap_means_of_seeds(np.ones((1, 5, 1)), resamples=10, generator=np.random.default_rng(0))


def test_the_least_p_value_is_that_of_no_resample_as_extreme() -> None:
    p = sign_flip_p_value(np.ones(50), resamples=99, generator=np.random.default_rng(0))
    assert p == least_p_value(99) == 0.01


def test_holm_by_hand() -> None:
    assert [found.p for found in holm([0.01, 0.04, 0.03, 0.005])] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_what_follows_from_a_floor_is_a_bound_too() -> None:
    """Two at the floor of .01; .011 is corrected to 2 x .011, below 4 x .01, and takes over that bound."""
    found = holm([0.01, 0.5, 0.011, 0.01], floor=0.01)
    assert [p for p, _ in found] == pytest.approx([0.04, 0.5, 0.04, 0.04])
    assert [at_floor for _, at_floor in found] == [True, False, True, True]
    assert not any(at_floor for _, at_floor in holm([0.01, 0.5]))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_value_and_bonferroni(p_values: list[float]) -> None:
    adjusted = [found.p for found in holm(p_values)]
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12 or q == max(adjusted)
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)
