"""Cold-start items get the collaborative vector of the known item whose text is nearest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from recsys.embeddings import neighbours as module
from recsys.embeddings.neighbours import TextNeighbours
from recsys.errors import ArtifactError, DataError
from recsys.tables import FloatArray, ItemVectors

NUM_ITEMS = 40
ITEM_IDS = [f"i{n}" for n in range(NUM_ITEMS)]


def vectors(width: int, seed: int, rows: int = NUM_ITEMS) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


TEXT, COLLABORATIVE = vectors(6, 0), vectors(3, 1)
KNOWN = np.arange(NUM_ITEMS) % 4 != 0


def made() -> TextNeighbours:
    return TextNeighbours.of(ItemVectors(ITEM_IDS, TEXT), ItemVectors(ITEM_IDS, COLLABORATIVE), KNOWN)


def nearest(text: FloatArray) -> int:
    """By a loop over the known items."""
    cosines = {
        item: float(text @ TEXT[item]) / float(np.linalg.norm(text) * np.linalg.norm(TEXT[item]))
        for item in range(NUM_ITEMS)
        if KNOWN[item]
    }
    return max(cosines, key=cosines.__getitem__)


@given(rows=st.integers(0, 9), queries=st.integers(1, 4), items=st.integers(1, 50), seed=st.integers(0, 99))
def test_the_proxy_is_the_known_item_of_the_most_similar_text_whatever_the_chunks(
    rows: int, queries: int, items: int, seed: int
) -> None:
    text = vectors(6, seed + 2, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_QUERIES", queries)
        patch.setattr(module, "_ITEMS", items)
        found = made().proxies(text)
    assert found.items.tolist() == [nearest(row) for row in text]
    np.testing.assert_array_equal(found.vectors, COLLABORATIVE[found.items])


def test_the_length_of_a_text_vector_changes_nothing_and_the_first_of_equals_is_the_proxy() -> None:
    text = np.concatenate([TEXT[[1, 2]], TEXT[[1, 2]]])
    twice = TextNeighbours(
        np.array([7, 8, 9, 10]), text / np.linalg.norm(text, axis=1, keepdims=True), COLLABORATIVE[:4]
    )
    assert twice.proxies(TEXT[[2, 1]] * 50).items.tolist() == [8, 7]


def test_a_text_without_a_similar_one_gets_the_mean() -> None:
    only = TextNeighbours(np.array([3, 5]), np.array([[1, 0], [0.6, 0.8]], np.float32), COLLABORATIVE[:2])
    found = only.proxies(np.array([[0, 0], [-1, 0], [0, 2]], np.float32))
    assert found.items.tolist() == [-1, -1, 5]
    np.testing.assert_allclose(found.vectors[:2], np.tile(COLLABORATIVE[:2].mean(axis=0), (2, 1)), rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"got vectors \(2, 5\), expected \[M, 6\]"):
        made().proxies(vectors(5, 0, 2))
    with pytest.raises(DataError, match="no item has training interactions"):
        TextNeighbours.of(
            ItemVectors(ITEM_IDS, TEXT), ItemVectors(ITEM_IDS, COLLABORATIVE), np.zeros(NUM_ITEMS, np.bool_)
        )


def test_saved_and_loaded_they_give_the_same_proxies(tmp_path: Path) -> None:
    made().save(tmp_path / "n")
    loaded = TextNeighbours.load(tmp_path / "n")
    assert repr(loaded) == "<TextNeighbours (30 items, 6 text dimensions)>"
    text = vectors(6, 9, 20)
    for got, wanted in zip(loaded.proxies(text), made().proxies(text), strict=True):
        np.testing.assert_array_equal(got, wanted)


def other(path: Path, **arrays: torch.Tensor) -> None:
    save_file(arrays, path)


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: other(path, items=torch.zeros(3)),
        lambda path: other(path, items=torch.zeros(3), text=torch.zeros(2, 6), collaborative=torch.zeros(3, 3)),
        lambda path: other(path, items=torch.zeros(3), text=torch.zeros(3, 6), collaborative=torch.zeros(3)),
    ],
)
def test_a_damaged_file_is_named(damage: Callable[[Path], object], tmp_path: Path) -> None:
    made().save(tmp_path / "n")
    damage(tmp_path / "n")
    with pytest.raises(ArtifactError, match=str(tmp_path / "n")):
        TextNeighbours.load(tmp_path / "n")
