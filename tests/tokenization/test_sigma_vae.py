import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.tokenization.sigma_vae import SigmaVae, encoder_similarity, noise_scale
from recsys.tokenization.whitening import fit_whitening


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_model(*, tokens: int = 2, sigma: float = 0.5, mask_rate: float = 0.1) -> SigmaVae:
    return SigmaVae(10, tokens=tokens, token_dim=3, hidden=(8,), sigma=sigma, mask_rate=mask_rate)


@settings(max_examples=5, deadline=None)
@given(sigma=st.floats(0.1, 3), seed=st.integers(0, 2**20))
def test_the_noise_has_the_mean_size_that_is_asked_for(sigma: float, seed: int) -> None:
    scale = noise_scale(100_000, sigma, generator(seed))
    assert scale.abs().mean().item() == pytest.approx(sigma, rel=0.01)
    assert scale.mean().item() == pytest.approx(0, abs=0.02 * sigma)


def test_noise_is_one_size_a_row_and_fresh_for_every_row_token_and_call() -> None:
    model, mu, source = tiny_model(), torch.zeros(20_000, 2, 3), generator()
    first, second = model.perturb(mu, source), model.perturb(mu, source)
    assert not torch.equal(first, second)
    assert len(first.unique()) > 0.99 * first.numel()
    size = math.sqrt(math.pi / 2) * 0.5
    assert first.std().item() == pytest.approx(size, rel=0.02)
    # A row's squares share its s: their correlation is (E s^4 - (E s^2)^2) / (3 E s^4 - (E s^2)^2) = 2 / 8.
    squares = first.square().flatten(1).T
    assert torch.corrcoef(squares)[0, 1:].mean().item() == pytest.approx(0.25, abs=0.04)
    assert torch.corrcoef(first.flatten(1).T)[0, 1:].abs().max() < 0.05


def test_every_feature_is_masked_at_the_rate_set_by_its_learned_value_in_training_only() -> None:
    model, x = tiny_model(mask_rate=0.1), torch.ones(20_000, 10)
    with torch.no_grad():
        model.masked.copy_(torch.arange(10) + 2)
    masked = model.train().mask(x, generator())
    changed = masked != x
    assert changed.float().mean(dim=0).sub(0.1).abs().max() < 0.01
    assert changed.float().mean(dim=1).std() > 0.05  # rows differ: no column is masked for a whole batch
    assert torch.equal(masked[changed], model.masked.expand(20_000, 10)[changed])
    assert torch.equal(model.eval().mask(x, generator()), x)


def test_losses_leave_their_input_alone_and_differ_from_call_to_call() -> None:
    model, source = tiny_model().train(), generator()
    x = torch.randn(40, 10, generator=generator(1))
    before = x.clone()
    first, second = model.losses(x, source), model.losses(x, source)
    assert torch.equal(x, before)
    assert first.reconstruction != second.reconstruction
    again = model.losses(x, generator())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_target_is_not_masked() -> None:
    model = tiny_model(mask_rate=0.999, sigma=0).train()
    x = torch.randn(500, 10, generator=generator(1))
    with torch.no_grad():
        blind = model.decode(model.encode(model.masked.expand(1, -1)))
    assert model.losses(x, generator()).reconstruction.item() == pytest.approx(
        (x - blind).square().mean().item(), rel=0.02
    )


def test_the_decoder_reads_the_mean_of_the_tokens() -> None:
    model, latents = tiny_model(), torch.randn(5, 2, 3, generator=generator())
    torch.testing.assert_close(model.decode(latents), model.decode(latents.flip(1)))
    torch.testing.assert_close(model.decode(latents), model.decoder(latents.mean(dim=1)))


def test_the_encoders_start_apart_and_every_parameter_learns() -> None:
    model = tiny_model().train()
    mu = model.encode(torch.randn(5, 10, generator=generator()))
    assert mu.shape == (5, 2, 3)
    assert not torch.allclose(mu[:, 0], mu[:, 1])
    model.losses(torch.randn(200, 10, generator=generator()), generator()).reconstruction.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_similarity_of_copies_is_one_of_unrelated_latents_small_and_of_a_single_encoder_zero() -> None:
    latents = torch.randn(5000, 3, 16, generator=generator())
    assert encoder_similarity(latents[:, :1].repeat(1, 2, 1)).item() == pytest.approx(1, abs=1e-5)
    assert encoder_similarity(latents).item() == pytest.approx(1 / 16, abs=0.005)
    assert encoder_similarity(latents[:, :1]) == 0
    assert encoder_similarity(latents[:1]) == 0


@settings(max_examples=10, deadline=None)
@given(items=st.integers(1, 30), features=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 2**20))
def test_whitened_vectors_have_the_energy_asked_for_and_come_back(
    items: int, features: int, rank: int, seed: int
) -> None:
    source = np.random.default_rng(seed)
    vectors = source.normal(size=(items, rank)) @ source.normal(size=(rank, features)) + 5
    vectors = vectors.astype(np.float32)
    whitening = fit_whitening(vectors, floor=1e-3, energy=7)
    x = whitening(torch.from_numpy(vectors))
    if items > 1:
        assert x.square().sum(dim=1).mean().item() == pytest.approx(7, rel=1e-2)
    back = x.double() @ torch.linalg.pinv(whitening.matrix.double(), rtol=1e-4) + whitening.mean
    np.testing.assert_allclose(back.numpy(), vectors, atol=0.02)


def test_full_rank_vectors_become_uncorrelated_with_unit_variance() -> None:
    source = np.random.default_rng(0)
    vectors = (source.normal(size=(4000, 6)) @ source.normal(size=(6, 6))).astype(np.float32)
    x = fit_whitening(vectors, floor=1e-6, energy=6)(torch.from_numpy(vectors))
    torch.testing.assert_close(torch.cov(x.T, correction=0), torch.eye(6), atol=1e-3, rtol=0)


def test_small_directions_are_not_blown_up_and_empty_ones_are_dropped() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    vectors[:, 2] *= 1e-3
    vectors[:, 3] = 1  # no item differs here
    whitening = fit_whitening(vectors, floor=0.01, energy=4)
    x = whitening(torch.from_numpy(vectors))
    assert x[:, 2].std() < 0.05
    unseen = torch.from_numpy(vectors[:1].copy())
    unseen[0, 3] = 1000
    torch.testing.assert_close(whitening(unseen), x[:1], atol=1e-3, rtol=0)
