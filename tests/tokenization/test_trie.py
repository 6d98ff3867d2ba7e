"""The trie against sets of prefixes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.tables import IntArray
from recsys.tokenization.trie import Trie
from tests.decoding.backbones import random_ids


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[IntArray, int, np.random.Generator]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_codes = draw(st.integers(1, 9))
    ids = random_ids(
        generator,
        num_items=draw(st.integers(1, 40)),
        num_levels=draw(st.integers(1, 8)),
        num_codes=num_codes,
    )
    return ids, num_codes, generator


def walk(trie: Trie, allowed: torch.Tensor | None = None) -> dict[tuple[int, ...], int]:
    """Every semantic id that can be reached, with its item."""
    bitmaps = None if allowed is None else trie.live(allowed)
    reached: dict[tuple[int, ...], int] = {(): 0}
    for level in range(trie.num_levels):
        children = trie.children(level, torch.tensor(list(reached.values()), dtype=torch.int64))
        valid = children.valid if bitmaps is None else children.valid & bitmaps[level][children.nodes]
        rows = zip(reached, valid.tolist(), children.codes.tolist(), children.nodes.tolist(), strict=True)
        reached = {
            (*prefix, code): node
            for prefix, flags, codes, nodes in rows
            for flag, code, node in zip(flags, codes, nodes, strict=True)
            if flag
        }
    return {prefix: int(trie.items[node]) for prefix, node in reached.items()}


@given(catalogues())
@settings(deadline=None, max_examples=60)
def test_every_item_is_reached_by_its_own_id_and_nothing_else_is(
    case: tuple[IntArray, int, np.random.Generator],
) -> None:
    codes, num_codes, _ = case
    expected = {tuple(row): item for item, row in enumerate(codes.tolist())}
    assert walk(Trie.build(codes, num_codes)) == expected


@given(catalogues(), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_live_nodes_lead_to_the_allowed_items_and_to_no_others(
    case: tuple[IntArray, int, np.random.Generator], share: float
) -> None:
    codes, num_codes, generator = case
    allowed = generator.random(len(codes)) < share
    expected = {tuple(row): item for item, row in enumerate(codes.tolist()) if allowed[item]}
    assert walk(Trie.build(codes, num_codes), torch.from_numpy(allowed)) == expected


@given(catalogues())
@settings(deadline=None, max_examples=20)
def test_a_batch_of_filters_is_each_filter_on_its_own(case: tuple[IntArray, int, np.random.Generator]) -> None:
    codes, num_codes, generator = case
    trie = Trie.build(codes, num_codes)
    allowed = torch.from_numpy(generator.random((3, len(codes))) < 0.5)
    together = trie.live(allowed)
    assert [len(bitmap) for bitmap in trie.live(allowed[0])] == [trie.num_nodes(d + 1) for d in range(trie.num_levels)]
    for row in range(3):
        for bitmap, alone in zip(together, trie.live(allowed[row]), strict=True):
            assert torch.equal(bitmap[row], alone)


def test_nodes_are_numbered_in_the_order_of_their_prefixes() -> None:
    trie = Trie.build(np.array([[2, 0], [0, 3], [2, 1], [0, 1]]), 4)
    assert trie.codes[0].tolist() == [0, 2]
    assert trie.codes[1].tolist() == [1, 3, 0, 1]
    assert trie.items.tolist() == [3, 1, 0, 2]
    assert trie.widths == (2, 2)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, 2), dtype=np.int64), "at least one item"),
        (np.array([[0, 4]]), r"must lie in 0\.\.3"),
        (np.array([[-1, 0]]), r"must lie in 0\.\.3"),
        (np.array([[0, 1], [0, 1], [1, 1]]), "3 items have only 2 distinct ids"),
    ],
)
def test_ids_that_cannot_be_a_catalogue_are_refused(codes: IntArray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trie.build(codes, 4)


def test_a_large_trie_stays_under_a_hundred_bytes_an_item() -> None:
    numbers = np.random.default_rng(0).permutation(np.unique(np.random.default_rng(1).integers(256**4, size=100_000)))
    trie = Trie.build(np.stack([numbers // 256**power % 256 for power in range(4)], axis=1), 256)
    assert sum(t.nbytes for t in (*trie.indptr, *trie.codes, trie.items)) <= 100 * trie.num_items
    assert repr(trie) == f"<Trie ({trie.num_items} items, 4 levels x 256 codes)>"
