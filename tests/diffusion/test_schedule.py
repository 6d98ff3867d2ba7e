"""The forward process against its formula, and conversions that invert at every timestep."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.diffusion.config import Prediction
from recsys.diffusion.schedule import Schedule

PREDICTIONS: list[Prediction] = ["v", "eps", "x0"]


def test_it_is_the_cosine_schedule() -> None:
    schedule = Schedule(1000)

    def curve(step: int) -> float:
        return math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for timestep in (0, 1, 500, 998):
        kept = curve(timestep + 1) / curve(0)
        assert schedule.signal[timestep] == pytest.approx(math.sqrt(kept), rel=1e-4)
        assert schedule.noise[timestep] == pytest.approx(math.sqrt(1 - kept), rel=1e-4)
    assert schedule.signal[999] > 0
    assert (schedule.signal.diff() < 0).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PREDICTIONS), st.integers(2, 1000), st.integers(0, 2**31))
def test_conversions_invert(prediction: Prediction, timesteps: int, seed: int) -> None:
    schedule = Schedule(timesteps).double()
    generator = torch.Generator().manual_seed(seed)
    x0, eps = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    when = torch.tensor([0, timesteps // 2, timesteps - 1])
    noisy = schedule.noisy(x0, eps, when)
    clean = schedule.clean(prediction, schedule.output(prediction, x0, eps, when), noisy, when)
    torch.testing.assert_close(clean.x0, x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clean.eps, eps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_last_timestep_is_finite_and_nothing_is_clamped(prediction: Prediction) -> None:
    schedule = Schedule(1000)
    last = torch.tensor([999])
    clean = schedule.clean(prediction, torch.full((1, 4), 3.0), torch.full((1, 4), -50.0), last)
    assert torch.isfinite(torch.stack(clean)).all()
    assert torch.stack(clean).abs().max() > 3


def test_one_clean_latent_serves_many_timesteps() -> None:
    schedule, x0 = Schedule(100), torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    when, eps = torch.tensor([[0, 40, 99], [3, 50, 98]]), torch.zeros(2, 3, 3)
    assert schedule.output("x0", x0, eps, when).shape == (2, 3, 3)
    torch.testing.assert_close(schedule.noisy(x0, eps, when)[1, 2], schedule.signal[98] * x0[1, 0])
