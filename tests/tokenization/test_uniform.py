import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.tokenization.uniform import transport_plan, uniform_codes


def costs(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=8)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99), epsilon=st.sampled_from([1.0, 0.1])
)
def test_plan_has_uniform_marginals(rows: int, columns: int, seed: int, epsilon: float) -> None:
    plan = transport_plan(costs(rows, columns, seed), epsilon=epsilon, iterations=1000)
    np.testing.assert_allclose(plan.sum(dim=0), 1 / columns, rtol=1e-9)
    np.testing.assert_allclose(plan.sum(dim=1), 1 / rows, rtol=1e-3)


def test_plan_equals_the_plain_scaling_where_that_does_not_overflow() -> None:
    given_costs = costs(12, 7).double()
    low, high = given_costs.min(), given_costs.max()
    kernel = torch.exp(-(2 * (given_costs - low) / (high - low) - 1) / 0.05)
    for _ in range(30):
        kernel = kernel / (12 * kernel.sum(dim=1, keepdim=True))
        kernel = kernel / (7 * kernel.sum(dim=0, keepdim=True))
    np.testing.assert_allclose(transport_plan(given_costs, epsilon=0.05, iterations=30), kernel, rtol=1e-9)


@pytest.mark.parametrize("epsilon", [3e-3, 1e-3, 1e-4])
def test_plan_stays_finite_and_column_exact_for_tiny_epsilon(epsilon: float) -> None:
    far = costs(200, 50)
    far[:, 3] += 5.0  # a code that nobody is near: its entries underflow in any fixed-precision kernel
    plan = transport_plan(far, epsilon=epsilon, iterations=500)
    assert torch.isfinite(plan).all()
    np.testing.assert_allclose(plan.sum(dim=0), 1 / 50, rtol=1e-9)


def test_hard_codes_spread_a_crowd_that_wants_one_code() -> None:
    crowded = costs(256, 16, seed=1) * 0.1
    crowded[:, 0] -= 1.0
    loads = torch.bincount(uniform_codes(crowded, epsilon=0.003, iterations=200), minlength=16)
    assert crowded.argmin(dim=1).eq(0).all()
    assert loads.max() <= 2 * 256 / 16


def test_equal_costs_are_no_error() -> None:
    plan = transport_plan(torch.zeros(4, 2), epsilon=0.003, iterations=5)
    np.testing.assert_allclose(plan, np.full((4, 2), 1 / 8))


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 5), (0.1, 0)])
def test_settings_that_mean_nothing_are_refused(epsilon: float, iterations: int) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        transport_plan(torch.zeros(2, 2), epsilon=epsilon, iterations=iterations)
