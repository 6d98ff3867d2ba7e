import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from recsys.tables import ItemVectors
from recsys.tokenization.continuous import fit_sigma_vae
from recsys.tokenization.continuous_quality import latent_quality
from recsys.tokenization.measures import neighbours_kept, relative_error
from tests.tokenization.sigma_vae import BEHAVIOUR, NUM_ITEMS, TEXT, block, fitted, tiny_config


def test_a_fitted_tokenizer_is_alive_and_keeps_neighbours() -> None:
    quality = latent_quality(fitted(), TEXT, BEHAVIOUR, seed=0)
    assert (quality.num_items, quality.dimensions) == (NUM_ITEMS, 12)
    assert quality.active >= 0.95
    assert quality.reconstruction_error < quality.reconstruction_error_noisy < 1
    assert quality.neighbours_kept is not None
    assert quality.neighbours_kept > 5 * 10 / NUM_ITEMS
    assert json.loads(json.dumps(asdict(quality)))["active"] == quality.active


def test_figures_depend_on_the_seed_of_the_noise_alone() -> None:
    first, again, other = (latent_quality(fitted(), TEXT, BEHAVIOUR, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.reconstruction_error == pytest.approx(other.reconstruction_error, rel=1e-4)
    assert first.reconstruction_error_noisy != other.reconstruction_error_noisy


def test_copied_encoders_are_seen_and_dead_dimensions_counted() -> None:
    tokenizer = fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(epochs=1), seed=0)
    first, second = tokenizer.model.encoders
    second.load_state_dict(first.state_dict())
    quality = latent_quality(tokenizer, TEXT, BEHAVIOUR, seed=0)
    assert quality.encoder_correlation == pytest.approx(1, abs=1e-4)
    assert quality.encoder_cosine == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        for parameter in second[-1].parameters():
            parameter[:3] = 0
    dead = latent_quality(tokenizer, TEXT, BEHAVIOUR, seed=0)
    assert dead.active <= 0.75
    assert dead.smallest_variance == pytest.approx(0, abs=1e-9)


def test_decorrelation_drives_the_encoders_apart() -> None:
    plain, apart = (
        latent_quality(
            fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(decorrelation_weight=weight), seed=0), TEXT, BEHAVIOUR, seed=0
        )
        for weight in (0, 1)
    )
    assert plain.encoder_cosine is not None
    assert apart.encoder_cosine is not None
    assert apart.encoder_cosine < plain.encoder_cosine - 0.2


@pytest.mark.parametrize("items", [1, 2])
def test_tiny_catalogues_and_a_single_encoder(items: int) -> None:
    text = block(5, seed=0, items=items)
    quality = latent_quality(fit_sigma_vae(text, None, tiny_config(epochs=1, num_tokens=1), seed=0), text, None, seed=0)
    assert quality.neighbours_kept is None
    assert quality.encoder_correlation is None
    assert quality.encoder_cosine is None


def test_neighbours_kept_by_a_rotation_and_lost_by_a_shuffle() -> None:
    source = np.random.default_rng(0)
    points = source.normal(size=(400, 5)).astype(np.float32)
    rotated = (points @ np.linalg.qr(source.normal(size=(5, 5)))[0]).astype(np.float32)
    assert neighbours_kept(points, rotated, np.random.default_rng(1)) == pytest.approx(1, abs=0.01)
    kept = neighbours_kept(points, source.permutation(points), np.random.default_rng(1))
    assert kept == pytest.approx(10 / 399, abs=0.02)
    assert neighbours_kept(points[:11], rotated[:11], np.random.default_rng(1)) is None


def test_relative_error_is_one_for_the_mean_and_zero_for_the_vectors() -> None:
    vectors = ItemVectors(TEXT.item_ids, TEXT.vectors).vectors
    assert relative_error(np.broadcast_to(vectors.mean(axis=0), vectors.shape), vectors) == pytest.approx(1, rel=1e-5)
    assert relative_error(vectors, vectors) == 0


def test_the_neighbours_of_every_item_of_a_small_catalogue_count_once() -> None:
    before, after = np.random.default_rng(0).standard_normal((2, 60, 4)).astype(np.float32)
    found = [neighbours_kept(before, after, np.random.default_rng(seed)) for seed in range(4)]
    assert found == pytest.approx([found[0]] * 4)
