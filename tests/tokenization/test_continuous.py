import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.embeddings.neighbours import TextNeighbours
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.tables import ItemVectors
from recsys.tokenization.continuous import ContinuousTokenizer, fit_sigma_vae
from recsys.tracking import NullTracker
from tests.tokenization.sigma_vae import BEHAVIOUR, NUM_ITEMS, TEXT, block, fitted, tiny_config


class KilledError(Exception):
    pass


class RecordingTracker(NullTracker):
    """Keeps what is logged and, where asked, raises in place of a kill after an epoch."""

    def __init__(self, killed_at: int = 0) -> None:
        self.killed_at = killed_at
        self.logged: dict[int, Mapping[str, float]] = {}

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.logged[step] = values
        if step == self.killed_at:
            raise KilledError


def take(items: ItemVectors, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ItemVectors:
    return ItemVectors([items.item_ids[row] for row in rows], items.vectors[rows])


def state(tokenizer: ContinuousTokenizer) -> dict[str, torch.Tensor]:
    return tokenizer.model.state_dict()


def test_latents_are_normalised_and_in_the_items_order() -> None:
    latents = fitted().latents(TEXT, BEHAVIOUR)
    assert latents.item_ids == TEXT.item_ids
    assert latents.vectors.shape == (NUM_ITEMS, 12)
    assert latents.vectors.dtype == np.float32
    assert np.abs(latents.vectors.mean(axis=0)).max() < 0.01
    assert np.abs(latents.vectors.std(axis=0) - 1).max() < 0.01


def test_latents_are_exact_and_change_nothing() -> None:
    text, behaviour = TEXT.vectors.copy(), BEHAVIOUR.vectors.copy()
    first, second = fitted().latents(TEXT, BEHAVIOUR), fitted().latents(TEXT, BEHAVIOUR)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(TEXT.vectors, text)
    np.testing.assert_array_equal(BEHAVIOUR.vectors, behaviour)


def test_every_row_is_by_itself() -> None:
    latents, order = fitted().latents(TEXT, BEHAVIOUR).vectors, np.random.default_rng(0).permutation(NUM_ITEMS)
    shuffled = fitted().latents(take(TEXT, order), take(BEHAVIOUR, order))
    np.testing.assert_allclose(shuffled.vectors, latents[order], atol=1e-5)
    alone = fitted().latents(take(TEXT, order[:1]), take(BEHAVIOUR, order[:1]))
    np.testing.assert_allclose(alone.vectors, latents[order[:1]], atol=1e-5)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = fitted().latents(TEXT, BEHAVIOUR).vectors
    monkeypatch.setattr("recsys.tokenization.continuous._CHUNK", 70)
    np.testing.assert_allclose(fitted().latents(TEXT, BEHAVIOUR).vectors, latents, atol=1e-5)


def test_decoding_points_where_the_vectors_point() -> None:
    tokenizer = fitted()
    with torch.no_grad():
        decoded = tokenizer.model.decode(tokenizer.mu(tokenizer.latents(TEXT, BEHAVIOUR).vectors))
    blocks = zip(decoded.split([20, 8], dim=1), tokenizer.blocks.whitenings.values(), (TEXT, BEHAVIOUR), strict=True)
    for part, whitening, block_ in blocks:
        got = part @ torch.linalg.pinv(whitening.matrix) + whitening.mean
        assert torch.cosine_similarity(got, torch.from_numpy(block_.vectors), dim=1).mean() > 0.7


def test_new_items_get_latents_near_their_kind() -> None:
    latents = fitted().latents(TEXT, BEHAVIOUR).vectors
    more = block(20, seed=0, items=NUM_ITEMS + 50), block(8, seed=1, items=NUM_ITEMS + 50)
    rows = np.arange(NUM_ITEMS, NUM_ITEMS + 50)
    new = fitted().latents(take(more[0], rows), take(more[1], rows)).vectors
    nearest = np.square(new[:, None] - latents[None]).sum(axis=2).argmin(axis=1)
    assert (nearest % 10 == rows % 10).mean() > 0.9


def test_new_items_with_proxies_get_latents_near_their_kind_and_as_far_out_as_others() -> None:
    latents = fitted().latents(TEXT, BEHAVIOUR).vectors
    rows = np.arange(NUM_ITEMS, NUM_ITEMS + 50)
    text = take(block(20, seed=0, items=NUM_ITEMS + 50), rows)
    found = TextNeighbours.of(TEXT, BEHAVIOUR, np.ones(NUM_ITEMS, np.bool_)).proxies(text.vectors)
    new = fitted().latents(text, ItemVectors(text.item_ids, found.vectors)).vectors
    nearest = np.square(new[:, None] - latents[None]).sum(axis=2).argmin(axis=1)
    assert (nearest % 10 == rows % 10).mean() > 0.9
    assert np.square(new).mean() == pytest.approx(np.square(latents).mean(), rel=0.2)


def test_a_block_fitted_on_must_be_given() -> None:
    with pytest.raises(DataError, match="fitted on 8 collaborative features, got none"):
        fitted().latents(TEXT, None)


def test_a_block_without_weight_or_vectors_is_no_part_of_the_input() -> None:
    config = tiny_config(epochs=2)
    alone = fit_sigma_vae(TEXT, None, config, seed=0)
    assert list(alone.blocks.widths) == ["text"]
    unweighted = fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(epochs=2, collaborative_weight=0), seed=0)
    np.testing.assert_array_equal(unweighted.latents(TEXT, BEHAVIOUR).vectors, alone.latents(TEXT, None).vectors)
    behaviour = fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(epochs=2, text_weight=0), seed=0)
    assert list(behaviour.blocks.widths) == ["collaborative"]
    assert len(behaviour.latents(TEXT, BEHAVIOUR)) == NUM_ITEMS


def test_blocks_share_the_energy_of_the_input_by_their_weights() -> None:
    tokenizer = fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(epochs=1, text_weight=1, collaborative_weight=3), seed=0)
    given = tokenizer.blocks.given(TEXT, BEHAVIOUR)
    energy = tokenizer.blocks.whiten(given, slice(None)).square().mean(dim=0).numpy()
    assert energy.mean() == pytest.approx(1, rel=1e-3)
    assert 3 * energy[:20].sum() == pytest.approx(energy[20:].sum(), rel=1e-3)


def test_the_seed_decides_and_no_global_generator_is_touched() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    runs = [fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(epochs=2), seed=seed) for seed in (0, 0, 1)]
    latents = [run.latents(TEXT, BEHAVIOUR).vectors for run in runs]
    np.testing.assert_array_equal(latents[0], latents[1])
    assert not np.allclose(latents[0], latents[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_losses_are_logged_once_an_epoch_and_fall() -> None:
    tracker = RecordingTracker()
    fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(epochs=8), seed=0, tracker=tracker)
    assert list(tracker.logged) == list(range(1, 9))
    assert set(tracker.logged[1]) == {"continuous/reconstruction", "continuous/kl", "continuous/similarity"}
    assert tracker.logged[8]["continuous/reconstruction"] < tracker.logged[1]["continuous/reconstruction"]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["continuous.json", "continuous.safetensors"]
    loaded = ContinuousTokenizer.load(tmp_path)
    assert repr(loaded) == "<ContinuousTokenizer (20 text + 8 collaborative features, 2 x 6 latents)>"
    assert loaded.config == fitted().config
    latents = fitted().latents(TEXT, BEHAVIOUR).vectors
    np.testing.assert_array_equal(loaded.latents(TEXT, BEHAVIOUR).vectors, latents)
    torch.testing.assert_close(loaded.mu(latents), fitted().mu(latents), rtol=0, atol=0)


def damage_weights(folder: Path) -> None:
    path = folder / "continuous.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_weights(folder: Path) -> None:
    (folder / "continuous.safetensors").unlink()


def weights_of_another_shape(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    fit_sigma_vae(TEXT, None, tiny_config(epochs=1, token_dim=5), seed=0).save(other)
    (other / "continuous.safetensors").replace(folder / "continuous.safetensors")


@pytest.mark.parametrize("damage", [damage_weights, lose_weights, weights_of_another_shape])
def test_damaged_weights_are_refused_by_name(damage: object, tmp_path: Path) -> None:
    fitted().save(tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=r"continuous\.safetensors cannot be read"):
        ContinuousTokenizer.load(tmp_path)


@pytest.mark.parametrize("changed", [{"kind": "rq-vae"}, {"version": 99}, {"config": {"num_tokens": 0}}, {"config": 3}])
def test_foreign_descriptions_are_refused_by_name(changed: dict[str, object], tmp_path: Path) -> None:
    fitted().save(tmp_path)
    path = tmp_path / "continuous.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"continuous\.json.*run `tokenize` again"):
        ContinuousTokenizer.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", "\ud800"])
def test_unreadable_descriptions_are_refused_by_name(text: str, tmp_path: Path) -> None:
    fitted().save(tmp_path)
    (tmp_path / "continuous.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ArtifactError, match=r"continuous\.json"):
        ContinuousTokenizer.load(tmp_path)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="no items"):
        fit_sigma_vae(take(TEXT, np.arange(0)), None, tiny_config(), seed=0)
    with pytest.raises(DataError, match="not of the same items"):
        fit_sigma_vae(TEXT, take(BEHAVIOUR, np.arange(NUM_ITEMS)[::-1]), tiny_config(), seed=0)
    with pytest.raises(ConfigError, match="text_weight is 0"):
        fit_sigma_vae(TEXT, None, tiny_config(text_weight=0), seed=0)
    with pytest.raises(DataError, match="fitted on 20 text features"):
        fitted().latents(BEHAVIOUR, BEHAVIOUR)
    with pytest.raises(DataError, match=r"expected \[N, 12\]"):
        fitted().mu(np.zeros((3, 5), dtype=np.float32))


@pytest.mark.parametrize("items", [1, 2, 3, 12])
def test_fewer_items_than_dimensions(items: int) -> None:
    text, behaviour = block(40, seed=0, items=items), block(30, seed=1, items=items)
    tokenizer = fit_sigma_vae(text, behaviour, tiny_config(epochs=3), seed=0)
    assert np.isfinite(tokenizer.latents(text, behaviour).vectors).all()
    unseen = tokenizer.latents(block(40, seed=7, items=5), block(30, seed=8, items=5)).vectors
    assert np.isfinite(unseen).all()
    assert np.abs(unseen).max() < 1000


def test_constant_and_dependent_columns_do_no_harm() -> None:
    vectors = TEXT.vectors.copy()
    vectors[:, 3], vectors[:, 5:10], vectors[:, 12] = 2.5, vectors[:, :5], 0
    text = ItemVectors(TEXT.item_ids, vectors)
    latents = fit_sigma_vae(text, None, tiny_config(epochs=3), seed=0).latents(text, None).vectors
    assert np.abs(latents).max() < 20
    same = ItemVectors(TEXT.item_ids, np.ones_like(vectors))
    constant = fit_sigma_vae(same, None, tiny_config(epochs=2), seed=0)
    assert np.abs(constant.latents(same, None).vectors).max() < 0.01
