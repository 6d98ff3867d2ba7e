"""The dispersive loss against a double loop and by its effect; the diffusion loss by its random draws."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.loss import Losses, PreferenceLoss, dispersive_loss
from recsys.training.seeding import seeded
from tests.diffusion.conftest import Problem, small_config


def mean_cosine(rows: Tensor) -> float:
    """Over all pairs of different rows."""
    unit = F.normalize(rows.detach(), dim=1)
    count = len(rows)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


@settings(max_examples=15, deadline=None)
@given(st.integers(32, 40), st.integers(1, 6), st.floats(0.2, 5), st.floats(0.01, 20), st.integers(0, 2**31))
def test_dispersion_equals_a_double_loop_and_has_its_bounds(
    rows: int, width: int, temperature: float, spread: float, seed: int
) -> None:
    hidden = 3 + spread * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for one in hidden.double():
        for other in hidden.double():
            total += math.exp(-float((one - other).square().sum()) / (width * temperature))
    loss = float(dispersive_loss(hidden, temperature))
    assert loss == pytest.approx(math.log(total / rows**2), abs=2e-4)
    assert -math.log(rows) - 1e-5 <= loss <= 1e-5


def test_its_bounds_are_reached() -> None:
    assert float(dispersive_loss(torch.ones(40, 3), 1.0)) == pytest.approx(0, abs=1e-6)
    assert float(dispersive_loss(1000 * torch.eye(40), 1.0)) == pytest.approx(-math.log(40), abs=1e-6)


def test_too_few_rows_give_zero() -> None:
    assert float(dispersive_loss(torch.randn(31, 4), 1.0)) == 0
    assert float(dispersive_loss(torch.randn(32, 4), 1.0)) < 0


def test_minimising_it_pushes_vectors_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 32, generator=generator) + 0.5 * torch.randn(64, 32, generator=generator)
    rows.requires_grad_()
    assert mean_cosine(rows) == pytest.approx(0.8, abs=0.05)
    optimizer = torch.optim.Adam([rows], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        dispersive_loss(rows, 1.0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert mean_cosine(rows) < 0.3


def make_loss(problem: Problem, **changes: object) -> PreferenceLoss:
    config = small_config(**changes)
    with seeded(0, 0):
        denoiser = Denoiser(8, 4, hidden_size=config.hidden_size, num_layers=config.num_layers)
    return PreferenceLoss(denoiser, torch.from_numpy(problem.latents), config)


def losses(module: PreferenceLoss, problem: Problem, rows: int = 200, seed: int = 0) -> Losses:
    conditions, targets = torch.from_numpy(problem.conditions[:rows]), torch.from_numpy(problem.targets[:rows])
    with seeded(seed, 1):
        found: Losses = module(conditions, targets)
    return Losses(found.diffusion.detach(), found.dispersive.detach())


def test_the_first_loss_is_the_mean_square_of_the_velocity(problem: Problem) -> None:
    assert float(losses(make_loss(problem), problem, rows=2000).diffusion) == pytest.approx(1, rel=0.1)


def test_a_seed_decides_everything(problem: Problem, untouched_generator: None) -> None:
    module = make_loss(problem)
    first, again, other = losses(module, problem), losses(module, problem), losses(module, problem, seed=1)
    assert torch.equal(first.diffusion, again.diffusion)
    assert torch.equal(first.dispersive, again.dispersive)
    assert not torch.equal(first.diffusion, other.diffusion)


def test_the_timesteps_of_a_row_are_evenly_spaced_and_cover_the_range(problem: Problem) -> None:
    """Stratified: four draws a row lie a quarter of the range apart, from a start that is uniform over the rows."""
    module, drawn = make_loss(problem, timesteps=1000), []
    modulation = module.denoiser.modulation
    module.denoiser.modulation = lambda embedded, when: drawn.append(when) or modulation(embedded, when)  # type: ignore
    losses(module, problem, rows=2000)
    (timesteps,) = drawn
    assert timesteps.shape == (2000, 4)
    gaps = timesteps.sort(dim=1).values.diff(dim=1)
    assert ((gaps - 250).abs() <= 1).all()
    assert int(timesteps.min()) == 0
    assert int(timesteps.max()) == 999
    shares = torch.histc(timesteps[:, 0].float(), bins=4, min=0, max=1000) / 2000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.05, rtol=0)


def test_gradients_reach_the_conditions_and_dropped_ones_stop_them(problem: Problem) -> None:
    module = make_loss(problem, condition_dropout=0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05)
    conditions = torch.from_numpy(problem.conditions[:100]).requires_grad_()
    with seeded(0, 1):
        module(conditions, torch.from_numpy(problem.targets[:100])).total(0.25).backward()
    assert conditions.grad is not None
    reached = float((conditions.grad.abs().sum(dim=1) > 0).float().mean())
    assert 0.3 < reached < 0.7
    module.eval()
    (gradient,) = torch.autograd.grad(module(conditions, torch.from_numpy(problem.targets[:100])).diffusion, conditions)
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_the_weight_of_dispersion() -> None:
    parts = Losses(torch.tensor(2.0), torch.tensor(-3.0))
    assert float(parts.total(0.25)) == 1.25


def test_dispersion_leaves_out_rows_without_a_condition(problem: Problem) -> None:
    """With nearly every condition dropped, fewer rows are left than the loss needs."""
    assert float(losses(make_loss(problem, condition_dropout=0.99), problem).dispersive) == 0


def test_without_weight_dispersion_is_not_computed(problem: Problem) -> None:
    assert float(losses(make_loss(problem, dispersive_weight=0), problem).dispersive) == 0
    assert float(losses(make_loss(problem), problem).dispersive) < 0
    assert float(losses(make_loss(problem), problem, rows=20).dispersive) == 0


def test_the_latents_are_not_among_the_weights_that_checkpoints_hold() -> None:
    module = PreferenceLoss(Denoiser(4, 3, hidden_size=8, num_layers=1), torch.randn(7, 3), small_config())
    assert "latents" in dict(module.named_buffers()), "they move to the device with the weights"
    assert "latents" not in module.state_dict()
