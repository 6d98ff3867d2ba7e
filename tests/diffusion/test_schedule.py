"""The forward process against its formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.diffusion.schedule import Schedule


def test_it_is_the_cosine_schedule() -> None:
    schedule = Schedule(1000)

    def curve(step: int) -> float:
        return math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for timestep in (0, 1, 500, 998):
        kept = curve(timestep + 1) / curve(0)
        assert schedule.signal[timestep] == pytest.approx(math.sqrt(kept), rel=1e-4)
        assert schedule.noise[timestep] == pytest.approx(math.sqrt(1 - kept), rel=1e-4)
    assert schedule.signal[999] / schedule.signal[998] == pytest.approx(math.sqrt(1 - 0.999), rel=1e-3)
    assert (schedule.signal.diff() < 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 1000), st.integers(0, 2**31))
def test_latent_and_noise_follow_from_the_velocity(timesteps: int, seed: int) -> None:
    """x0 = a y - s v and eps = s y + a v."""
    schedule = Schedule(timesteps).double()
    generator = torch.Generator().manual_seed(seed)
    x0, eps = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    when = torch.tensor([0, timesteps // 2, timesteps - 1])
    y, v = schedule.add_noise(x0, eps, when), schedule.velocity(x0, eps, when)
    a, s = schedule.signal[when, None], schedule.noise[when, None]
    torch.testing.assert_close(a * y - s * v, x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(s * y + a * v, eps, rtol=1e-5, atol=1e-5)


def test_one_clean_latent_serves_many_timesteps() -> None:
    schedule, x0 = Schedule(100), torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    when, eps = torch.tensor([[0, 40, 99], [3, 50, 98]]), torch.zeros(2, 3, 3)
    assert schedule.velocity(x0, eps, when).shape == (2, 3, 3)
    torch.testing.assert_close(schedule.add_noise(x0, eps, when)[1, 2], schedule.signal[98] * x0[1, 0])
