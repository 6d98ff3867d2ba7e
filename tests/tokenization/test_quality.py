from pathlib import Path
from typing import Self

import numpy as np
import pytest

from recsys.tables import FloatArray, Histories, IntArray, SemanticIds
from recsys.tokenization.quality import token_quality
from recsys.tokenization.tokenizer import Tokenizer
from tests.tokenization.conftest import NUM_GROUPS, NUM_ITEMS, groups

CODEBOOKS = np.array([[[0.0], [10.0]], [[0.0], [1.0]]], dtype=np.float32)


class PlainTokenizer:
    """Two levels of two codes over one-dimensional vectors: 0, 1, 10 and 11 can be named."""

    codebooks = CODEBOOKS

    def encode(self, vectors: FloatArray) -> IntArray:
        value = vectors[:, 0]
        return np.stack([value >= 5, value % 10 >= 0.5], axis=1).astype(np.int64)

    def decode(self, codes: IntArray) -> FloatArray:
        return self.quantized(codes)

    def latents(self, vectors: FloatArray) -> FloatArray:
        return vectors

    def quantized(self, codes: IntArray) -> FloatArray:
        total: FloatArray = CODEBOOKS[np.arange(2), codes].sum(axis=1)
        return total

    def assign(self, vectors: FloatArray, item_ids: object) -> SemanticIds:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError


VECTORS = np.array([[0.0], [0.1], [10.0], [11.0]], dtype=np.float32)
IDS = SemanticIds(["a", "b", "c", "d"], np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), 2)


def test_figures_of_four_items_by_hand() -> None:
    quality = token_quality(PlainTokenizer(), VECTORS, IDS, seed=0, categories=["x", "x", "y", "z"])
    assert quality.collision_rate == 0.5  # 0.0 and 0.1 are both nearest to (0, 0)
    assert quality.displaced == 0.25
    assert quality.displaced_prefix == 0
    assert quality.displacement == pytest.approx(0.9**2 / 0.1**2, rel=1e-5)
    assert quality.reconstruction_error == pytest.approx(0.01 / 4 / VECTORS.var(), rel=1e-5)
    assert quality.reconstruction_error_unique == pytest.approx(0.81 / 4 / VECTORS.var(), rel=1e-5)
    assert quality.category_purity == [0.5]
    assert quality.category_chance == pytest.approx(2 * (1 / 3) / 4)
    assert quality.neighbours_kept is None
    assert [level.prefixes for level in quality.levels] == [2, 4]
    assert [level.perplexity for level in quality.levels] == [pytest.approx(2), pytest.approx(2)]


def test_dead_codes_and_loads_are_counted() -> None:
    ids = SemanticIds(["a", "b"], np.array([[0, 0], [0, 1]]), 4)
    first, second = token_quality(PlainTokenizer(), VECTORS[:2], ids, seed=0).levels
    assert (first.codes_used, first.dead_codes, first.perplexity, first.max_load) == (1, 3, 1.0, 4.0)
    assert (second.codes_used, second.dead_codes, second.perplexity, second.max_load) == (2, 2, 2.0, 2.0)


def test_next_code_information_is_that_of_alternating_histories() -> None:
    alternating = Histories.from_lists(["u", "v"], [[0, 2] * 200, [3, 1] * 200])
    quality = token_quality(PlainTokenizer(), VECTORS, IDS, seed=0, histories=alternating)
    assert quality.next_code_information == pytest.approx(1, abs=1e-4)
    assert quality.next_code_information_shuffled == pytest.approx(0, abs=0.02)


def test_users_are_not_joined_end_to_start() -> None:
    separate = Histories.from_lists(["u", "v", "w"], [[0, 1], [], [2, 3]])
    quality = token_quality(PlainTokenizer(), VECTORS, IDS, seed=0, histories=separate)
    assert quality.next_code_information == pytest.approx(1)


def test_a_fitted_tokenizer_keeps_groups_together(tokenizer: Tokenizer, vectors: FloatArray) -> None:
    ids = tokenizer.assign(vectors, [str(n) for n in range(NUM_ITEMS)])
    quality = token_quality(tokenizer, vectors, ids, seed=0, categories=[str(g) for g in groups()])
    assert quality.category_purity is not None
    assert quality.category_purity[0] == pytest.approx(1)
    assert quality.category_chance == pytest.approx(1 / NUM_GROUPS, abs=0.01)
    assert quality.neighbours_kept is not None
    assert quality.neighbours_kept > 0.2
    assert quality.reconstruction_error <= quality.reconstruction_error_unique < 0.3
