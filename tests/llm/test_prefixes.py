"""Rows of codes in the context of the codes before, against their definition; new items change no other's score."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.llm import prefixes
from recsys.llm.prefixes import PrefixRows, PrefixTree
from recsys.tables import IntArray

LEVELS, CODES, WIDTH = 3, 4, 5
CATALOGUES = st.sets(st.tuples(*[st.integers(0, CODES - 1)] * LEVELS), min_size=1, max_size=20).map(
    lambda ids: np.random.default_rng(len(ids)).permutation(sorted(ids))
)


def made(codes: IntArray, known: torch.Tensor) -> tuple[PrefixRows, torch.Tensor, torch.Tensor]:
    """With the items' vectors [N, d] and the vectors of their codes [N, L, d]."""
    generator = torch.Generator().manual_seed(3)
    tables = torch.randn(LEVELS, CODES, WIDTH, generator=generator)
    own = torch.randn(64, WIDTH, generator=generator)[: len(codes)]
    parts = torch.stack([tables[level, codes[:, level]] for level in range(LEVELS)], dim=1)
    vectors = parts.sum(1) + own
    rows = torch.from_numpy(codes + CODES * np.arange(LEVELS))
    return PrefixRows.of(PrefixTree(rows, CODES, known), vectors, tables.flatten(0, 1)), vectors, parts


def naive(
    codes: IntArray, known: torch.Tensor, vectors: torch.Tensor, parts: torch.Tensor, state: torch.Tensor, item: int
) -> list[torch.Tensor]:
    """For each level the terms [K] behind the item's own codes before."""
    found = []
    for level in range(LEVELS):
        terms = torch.zeros(CODES)
        for code in range(CODES):
            path = [*codes[item, :level].tolist(), code]
            below = [i for i in range(len(codes)) if codes[i, : level + 1].tolist() == path and known[i] > 0]
            if below:
                left = (vectors[below] - parts[below, : level + 1].sum(1)).mean(0)
                terms[code] = state @ left + np.log(len(below))
        found.append(terms)
    return found


@settings(deadline=None)
@given(CATALOGUES, st.data())
def test_terms_are_of_the_known_items_below(codes: IntArray, data: st.DataObject) -> None:
    known = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(codes), max_size=len(codes))))
    rows, vectors, parts = made(codes, known)
    states = torch.randn(len(codes), WIDTH, generator=torch.Generator().manual_seed(4))
    nodes = torch.zeros(len(codes), dtype=torch.int64)
    for level in range(LEVELS):
        found = rows.add(torch.zeros(len(codes), CODES), states, level, nodes)
        for item in range(len(codes)):
            expected = naive(codes, known, vectors, parts, states[item], item)[level]
            torch.testing.assert_close(found[item], expected, atol=1e-5, rtol=1e-5)
        nodes = rows.child(level, nodes, torch.from_numpy(codes[:, level]))
        assert torch.equal(nodes, rows.tree.nodes[level]), "the node of an item's codes so far"


@settings(deadline=None)
@given(CATALOGUES, st.integers(1, 3))
def test_items_added_later_change_no_other_terms(codes: IntArray, added: int) -> None:
    first = codes[: max(1, len(codes) - added)]
    before, _, _ = made(first, torch.ones(len(first)))
    after, _, _ = made(codes, (torch.arange(len(codes)) < len(first)).float())
    states = torch.randn(len(first), WIDTH, generator=torch.Generator().manual_seed(4))
    old = new = torch.zeros(len(first), dtype=torch.int64)
    for level in range(LEVELS):
        zero = torch.zeros(len(first), CODES)
        torch.testing.assert_close(after.add(zero, states, level, new), before.add(zero, states, level, old))
        old, new = before.tree.nodes[level], after.tree.nodes[level][: len(first)]


@torch.no_grad()
def test_terms_of_many_beams_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.array([[a, b, c] for a in range(3) for b in range(4) for c in range(2)])
    rows, _, _ = made(codes, torch.ones(len(codes)))
    states = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(4))
    nodes = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    whole = rows.add(torch.zeros(2, 6, CODES), states, 1, nodes)
    monkeypatch.setattr(prefixes, "_GATHERED", 3 * CODES * WIDTH)
    torch.testing.assert_close(rows.add(torch.zeros(2, 6, CODES), states, 1, nodes), whole)
