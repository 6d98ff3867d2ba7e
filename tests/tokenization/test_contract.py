"""The contract of every registered quantizer."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ArtifactError, DataError
from recsys.tables import FloatArray
from recsys.tokenization.registry import load_tokenizer
from recsys.tokenization.tokenizer import Tokenizer
from tests.tokenization.conftest import NUM_GROUPS, NUM_ITEMS, groups

ITEM_IDS = [f"item-{n}" for n in range(NUM_ITEMS)]


def test_codes_index_the_codebooks(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    levels, num_codes, _ = tokenizer.codebooks.shape
    codes = tokenizer.encode(vectors)
    assert codes.shape == (NUM_ITEMS, levels)
    assert codes.min() >= 0
    assert codes.max() < num_codes


def test_decoding_codes_comes_back_near_the_vectors(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    error = np.square(tokenizer.decode(tokenizer.encode(vectors)) - vectors).mean()
    assert error < 0.15 * vectors.var(axis=0).mean()


def test_codes_stand_for_a_point_near_the_latent(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    latents = tokenizer.latents(vectors)
    z_hat = tokenizer.quantized(tokenizer.encode(vectors))
    assert np.square(z_hat - latents).mean() < 0.15 * latents.var(axis=0).mean()


def test_ids_are_unique_and_mostly_the_nearest_codes(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    ids = tokenizer.assign(vectors, ITEM_IDS)
    assert ids.item_ids == ITEM_IDS
    assert len(np.unique(ids.codes, axis=0)) == NUM_ITEMS
    assert (ids.codes[:, 0] == tokenizer.encode(vectors)[:, 0]).mean() > 0.9


def test_a_prefix_means_something(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    first = tokenizer.assign(vectors, ITEM_IDS).codes[:, 0]
    for code in np.unique(first):
        assert len(np.unique(groups()[first == code])) == 1
    assert len(np.unique(first)) >= NUM_GROUPS


def test_the_order_of_rows_changes_no_id(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    order = np.random.default_rng(1).permutation(NUM_ITEMS)
    shuffled = tokenizer.assign(vectors[order], [ITEM_IDS[i] for i in order])
    np.testing.assert_array_equal(shuffled.codes, tokenizer.assign(vectors, ITEM_IDS).codes[order])


def test_identical_vectors_get_distinct_ids(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    same = np.repeat(vectors[:1], NUM_ITEMS, axis=0)
    ids = tokenizer.assign(same, ITEM_IDS)
    assert len(np.unique(ids.codes, axis=0)) == NUM_ITEMS
    np.testing.assert_array_equal(ids.codes, tokenizer.assign(same, ITEM_IDS).codes)


def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, vectors: FloatArray, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer.safetensors"]
    loaded = load_tokenizer(tmp_path)
    codes = tokenizer.encode(vectors)
    np.testing.assert_array_equal(loaded.encode(vectors), codes)
    np.testing.assert_array_equal(loaded.decode(codes), tokenizer.decode(codes))
    np.testing.assert_array_equal(loaded.codebooks, tokenizer.codebooks)


def test_damaged_and_foreign_files_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_tokenizer(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"kind": "something else"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match="run `tokenize` again"):
        load_tokenizer(tmp_path)


def test_vectors_of_another_width_or_number_are_refused(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    with pytest.raises(DataError, match="fitted on 12 features"):
        tokenizer.encode(vectors[:, :5])
    with pytest.raises(DataError, match="240 vectors for 3 item ids"):
        tokenizer.assign(vectors, ITEM_IDS[:3])
