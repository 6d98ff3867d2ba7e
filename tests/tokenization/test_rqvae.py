from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recsys.errors import DataError
from recsys.tables import FloatArray
from recsys.tokenization import rqvae
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.kmeans import kmeans
from recsys.tokenization.rqvae import RqVae, Transport, default_widths
from recsys.tokenization.tokenizer import fit_rqvae
from recsys.tokenization.uniform import uniform_codes
from recsys.tracking import NullTracker
from tests.tokenization.conftest import tiny_config
from tests.training.trainings import KilledError


def test_no_batch_is_too_small_to_be_spread(vectors: FloatArray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among fewer items than codes, uniform marginals leave an item's choice to chance: the rest joins a batch."""
    rows: list[int] = []

    def spy(costs: torch.Tensor, *, epsilon: float, iterations: int) -> torch.Tensor:
        rows.append(len(costs))
        return uniform_codes(costs, epsilon=epsilon, iterations=iterations)

    monkeypatch.setattr(rqvae, "uniform_codes", spy)
    fit_rqvae(vectors[:123], tiny_config(1), seed=0)  # batches of 60
    assert rows == [60, 63]
    rows.clear()
    fit_rqvae(vectors[:120], tiny_config(1), seed=0)
    assert rows == [60, 60]
    rows.clear()
    fit_rqvae(vectors[:50], tiny_config(1), seed=0)
    assert rows == [50]


def test_a_codebook_that_nobody_needs_whole_is_kept_alive(vectors: FloatArray) -> None:
    codes = fit_rqvae(vectors, tiny_config(20), seed=0).encode(vectors)
    assert all(len(np.unique(codes[:, level])) == 8 for level in range(3))


def test_revived_codes_start_without_the_moments_of_their_past(vectors: FloatArray, tmp_path: Path) -> None:
    revived: dict[int, float] = {}

    class Stop(NullTracker):
        def log(self, values: Mapping[str, float], *, step: int) -> None:
            if step == 4:
                raise KilledError  # before the checkpoint of this epoch is written
            revived[step] = values["tokenize/codes_revived"]

    # 60 steps an epoch at a high learning rate: codes die that had been used, and every epoch ends with a checkpoint.
    changed = {"batch_size": 4, "learning_rate": 0.1, "sinkhorn_iterations": 0}
    with pytest.raises(KilledError):
        fit_rqvae(vectors, tiny_config(6).model_copy(update=changed), seed=0, work=tmp_path, tracker=Stop())
    (checkpoint,) = tmp_path.glob("*.safetensors")
    moments = [
        tensor for name, tensor in load_file(checkpoint).items() if "exp_avg" in name and tensor.shape == (3, 8, 4)
    ]
    assert len(moments) == 2
    assert revived[3] > 0
    for moment in moments:
        assert int((moment == 0).all(dim=2).sum()) == revived[3]


@pytest.mark.parametrize(("items", "features"), [(1, 3), (5, 1), (3, 40)])
def test_tiny_catalogues_and_fewer_features_than_latents(items: int, features: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(items, features)).astype(np.float32)
    tokenizer = fit_rqvae(vectors, TokenizeConfig(num_levels=2, codebook_size=4, latent_dim=8, epochs=2), seed=0)
    assert len(tokenizer.assign(vectors, [str(n) for n in range(items)])) == items


def test_constant_vectors_are_no_division_by_zero() -> None:
    tokenizer = fit_rqvae(np.ones((6, 3), dtype=np.float32), tiny_config(2), seed=0)
    assert np.isfinite(tokenizer.decode(np.zeros((1, 3), dtype=np.int64))).all()


def test_no_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="no items"):
        fit_rqvae(np.zeros((0, 4), dtype=np.float32), tiny_config(), seed=0)


def tiny_model() -> RqVae:
    model = RqVae(6, levels=3, codes=4, latent_dim=2, hidden=(8,))
    with torch.no_grad():
        model.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    return model


def test_quantizing_is_the_greedy_residual_sum() -> None:
    model, latent = tiny_model(), torch.randn(9, 2, generator=torch.Generator().manual_seed(1))
    quantized = model.quantize(latent)
    for row, point in enumerate(latent):
        total = torch.zeros(2)
        for level, codebook in enumerate(model.codebooks):
            code = (point - total - codebook).square().sum(dim=1).argmin()
            assert code == quantized.codes[row, level]
            total = total + codebook[code]
        torch.testing.assert_close(quantized.latent[row], total)


def test_reconstruction_reaches_the_encoder_and_codebooks_learn_from_their_own_loss() -> None:
    model = tiny_model()
    latent = torch.randn(9, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    quantized = model.quantize(latent)
    (through,) = torch.autograd.grad(quantized.latent.sum(), latent, retain_graph=True)
    torch.testing.assert_close(through, torch.ones_like(latent))
    (pull,) = torch.autograd.grad(quantized.codebook_loss, model.codebooks)
    assert (pull.abs().sum(dim=(1, 2)) > 0).all()


def test_every_level_pulls_the_encoder_to_its_code_vector() -> None:
    model = tiny_model()
    latent = torch.randn(9, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    quantized = model.quantize(latent)
    (pull,) = torch.autograd.grad(quantized.commitment_loss, latent, retain_graph=True)
    vectors = model.codebooks.detach()[torch.arange(3), quantized.codes]  # [9, 3, 2]
    residuals = latent.detach()[:, None] - vectors.cumsum(dim=1)  # what each level leaves
    torch.testing.assert_close(pull, 2 * residuals.sum(dim=1) / (3 * latent.numel()))
    assert torch.autograd.grad(quantized.codebook_loss, latent, allow_unused=True) == (None,)


def test_transport_spreads_the_last_level_only() -> None:
    model, latent = tiny_model(), torch.randn(64, 2, generator=torch.Generator().manual_seed(2))
    plain, spread = model.quantize(latent), model.quantize(latent, transport=Transport(0.003, 50))
    assert torch.equal(plain.codes[:, :2], spread.codes[:, :2])
    assert torch.bincount(spread.codes[:, 2], minlength=4).max() < torch.bincount(plain.codes[:, 2], minlength=4).max()


def test_kmeans_finds_separated_centres_and_fills_up_when_points_are_few() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = centres.repeat(30, 1) + 0.1 * torch.randn(90, 2, generator=generator)
    found = kmeans(points, 3, generator=generator)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.2
    assert kmeans(points[:2], 5, generator=generator).shape == (5, 2)


def test_centres_beyond_the_points_lie_a_tenth_of_the_spread_from_one() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.tensor([[0.0, 0.0], [200.0, 2.0]])  # standard deviations of 100 and 1
    found = kmeans(points, 1002, generator=generator)
    assert torch.equal(found[:2], points)
    nearest = points[(found[2:, 0] > 100).long()]
    torch.testing.assert_close((found[2:] - nearest).std(dim=0), torch.tensor([10.0, 0.1]), rtol=0.1, atol=0)


def test_widths_scale_to_the_input() -> None:
    assert [default_widths(n) for n in (1, 64, 384, 100_000)] == [(64,), (64,), (512,), (2048,)]


def test_an_untrained_network_starts_as_the_principal_components() -> None:
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9, 8, 7, 0.1, 0.1, 0.1])
    model = RqVae(6, levels=2, codes=4, latent_dim=3, hidden=(5,))
    model.start_linear(vectors)
    with torch.no_grad():
        latents = model.encoder(vectors)
        torch.testing.assert_close(latents.square().sum(dim=0), torch.linalg.svdvals(vectors)[:3].square())
        assert (model.decoder(latents) - vectors).abs().max() < 0.5
