"""The sampler against a distribution that is known in closed form; noise that depends on the user alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.diffusion import sampling
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.sampling import ddim_steps, keyed_noise, sample_key, solve
from recsys.diffusion.schedule import Schedule
from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray
from tests.diffusion.conftest import NUM_MODES, NUM_USERS, Problem, small_config

MEANS = torch.tensor([[1.2, 0.3], [-0.9, 1.0], [-0.4, -1.3]])
WEIGHTS = torch.tensor([0.5, 0.2, 0.3])
VARIANCE = 0.03  # of each mode; the spread between modes is about 1


def mixture_velocity(schedule: Schedule, y: Tensor, timestep: int) -> Tensor:
    """The output of a perfect denoiser for a mixture of Gaussians."""
    a, s = schedule.signal[timestep], schedule.noise[timestep]
    total = a**2 * VARIANCE + s**2
    away = y[:, None] - a * MEANS
    share = torch.softmax(WEIGHTS.log() - away.square().sum(dim=2) / (2 * total), dim=1)
    x0 = (share[:, :, None] * (MEANS + a * VARIANCE / total * away)).sum(dim=1)
    return schedule.velocity(x0, (y - a * x0) / s, torch.full((len(y),), timestep))


def test_a_perfect_denoiser_gives_the_mixture_back() -> None:
    schedule = Schedule(1000)
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    y = solve(lambda y, timestep: mixture_velocity(schedule, y, timestep), noise, ddim_steps(schedule, 20))
    mean = WEIGHTS @ MEANS
    centred = MEANS - mean
    covariance = (WEIGHTS[:, None] * centred).T @ centred + VARIANCE * torch.eye(2)
    assert float((y.mean(dim=0) - mean).norm() / covariance.trace().sqrt()) < 0.05
    assert float((torch.cov(y.T) - covariance).norm() / covariance.norm()) < 0.05


def test_timesteps_are_evenly_spaced_and_rounded() -> None:
    assert [step.timestep for step in ddim_steps(Schedule(1000), 6)] == [999, 832, 666, 499, 332, 166]
    assert [step.timestep for step in ddim_steps(Schedule(1000), 3)] == [999, 666, 332]


def test_a_denoiser_that_knows_the_latent_reaches_it_in_any_number_of_steps() -> None:
    schedule, generator = Schedule(50), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(3, 2, generator=generator), torch.randn(3, 2, generator=generator)
    noise = schedule.add_noise(x0, eps, torch.tensor([49]))
    for num_steps in (1, 7, 50):
        steps = ddim_steps(schedule, num_steps)
        assert (len(steps), steps[0].timestep) == (num_steps, 49)
        drawn = solve(lambda _, timestep: schedule.velocity(x0, eps, torch.tensor([timestep])), noise, steps)
        torch.testing.assert_close(drawn, x0, rtol=1e-4, atol=1e-4)


def test_a_key_is_a_number_of_64_bits_that_text_decides() -> None:
    assert sample_key("user-1") == sample_key("user-1") != sample_key("user-2")
    assert 0 <= sample_key("") < 2**64
    assert max(sample_key(str(number)) for number in range(100)) > 2**56


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.integers(0, 2**63))
def test_noise_depends_on_its_own_row_alone(keys: list[int], seed: int) -> None:
    noise = keyed_noise(keys, seed=seed, num_samples=4, dim=3)
    for row, key in zip(noise, keys, strict=True):
        np.testing.assert_array_equal(keyed_noise([key], seed=seed, num_samples=2, dim=3)[0], row[:2])
    assert not np.array_equal(keyed_noise(keys, seed=seed + 1, num_samples=4, dim=3), noise)


def test_noise_is_standard_normal_and_users_are_independent() -> None:
    noise = keyed_noise(range(200), seed=0, num_samples=20, dim=10)
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert abs(float(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1])) < 0.2


def nearest(latents: FloatArray, items: FloatArray) -> IntArray:
    return np.asarray(np.square(latents[..., None, :] - items).sum(axis=-1).argmin(axis=-1), dtype=np.int64)


def variation(model: PreferenceModel, problem: Problem, conditions: FloatArray) -> float:
    """Mean over users of the total variation between the shares of sampled items and the shares in the data."""
    chosen = nearest(model.sample(conditions, range(NUM_USERS), seed=1, num_samples=500), problem.latents)
    shares = np.stack([np.bincount(row, minlength=len(problem.latents)) / 500 for row in chosen])
    return float(np.abs(shares - problem.shares).sum(axis=1).mean() / 2)


def test_an_items_own_latent_is_nearest_to_it(problem: Problem) -> None:
    assert nearest(problem.latents, problem.latents).tolist() == list(range(NUM_USERS * NUM_MODES))


@pytest.mark.slow
def test_a_trained_head_draws_every_users_modes_in_their_shares(trained: PreferenceModel, problem: Problem) -> None:
    own = variation(trained, problem, problem.users)
    assert own < 0.06
    assert variation(trained, problem, np.roll(problem.users, 1, axis=0)) > own + 0.2


def with_settings(model: PreferenceModel, **changes: object) -> PreferenceModel:
    return PreferenceModel(model.denoiser, model.config.model_copy(update=changes))


@pytest.mark.parametrize("changes", [{}, {"sampling_steps": 10}, {"guidance_scale": 2.0}])
def test_a_batch_equals_its_rows_alone(
    trained: PreferenceModel, problem: Problem, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, keys = with_settings(trained, **changes), [sample_key(name) for name in "abcd"]
    batch = model.sample(problem.users, keys, seed=0, num_samples=6)
    monkeypatch.setitem(sampling._USERS_PER_BATCH, "cpu", 3)
    monkeypatch.setitem(sampling._ROWS_PER_PASS, "cpu", 6)
    for size in (1, 2, 4):
        pieces = [
            model.sample(problem.users[part], keys[part], seed=0, num_samples=6)
            for part in (slice(first, first + size) for first in range(0, NUM_USERS, size))
        ]
        np.testing.assert_allclose(np.concatenate(pieces), batch, atol=1e-5)
    fewer = model.sample(problem.users, keys, seed=0, num_samples=2)
    np.testing.assert_allclose(fewer, batch[:, :2], atol=1e-5)


def test_the_same_request_gives_the_same_latents_and_another_seed_or_key_does_not(
    trained: PreferenceModel, problem: Problem, untouched_generator: None
) -> None:
    for precision in ("fp32", "bf16"):
        model = with_settings(trained, precision=precision)
        first = model.sample(problem.users, range(4), seed=0)
        assert first.dtype == np.float32
        assert first.shape == (4, model.config.num_samples, 4)
        np.testing.assert_array_equal(model.sample(problem.users, range(4), seed=0), first)
        assert not np.allclose(model.sample(problem.users, range(4), seed=1), first)
        assert not np.allclose(model.sample(problem.users, range(1, 5), seed=0), first)


def test_bf16_draws_nearly_the_same(trained: PreferenceModel, problem: Problem) -> None:
    exact = trained.sample(problem.users, range(4), seed=0, num_samples=100)
    rough = with_settings(trained, precision="bf16").sample(problem.users, range(4), seed=0, num_samples=100)
    assert (nearest(exact, problem.latents) == nearest(rough, problem.latents)).mean() > 0.95


def test_guidance_of_zero_forgets_the_condition(trained: PreferenceModel, problem: Problem) -> None:
    drawn = with_settings(trained, guidance_scale=0.0).sample(problem.users, [7] * NUM_USERS, seed=0)
    np.testing.assert_allclose(drawn, np.broadcast_to(drawn[:1], drawn.shape), atol=1e-5)


def test_guidance_goes_beyond_the_condition_away_from_the_null(problem: Problem) -> None:
    """With one step, latents are linear in the denoiser's output: null + scale (conditional - null)."""
    denoiser = Denoiser(8, 4, hidden_size=16, num_layers=1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    zero, one, two, three = (
        PreferenceModel(denoiser.eval(), small_config(sampling_steps=1, guidance_scale=scale)).sample(
            problem.users, range(4), seed=0
        )
        for scale in (0.0, 1.0, 2.0, 3.0)
    )
    assert np.abs(one - zero).max() > 0.1
    np.testing.assert_allclose(two, zero + 2 * (one - zero), atol=1e-4)
    np.testing.assert_allclose(three, zero + 3 * (one - zero), atol=1e-4)


def test_no_users_get_no_samples_and_misfits_are_refused(trained: PreferenceModel, problem: Problem) -> None:
    assert trained.sample(problem.users[:0], [], seed=0).shape == (0, 5, 4)
    with pytest.raises(DataError, match=r"conditions \[B, 8\] and a key a row; got \(4, 3\) and 4 keys"):
        trained.sample(problem.users[:, :3], range(4), seed=0)
    with pytest.raises(DataError, match="and 2 keys"):
        trained.sample(problem.users, range(2), seed=0)
