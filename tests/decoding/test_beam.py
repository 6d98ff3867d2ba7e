"""Properties of constrained beam search, on random catalogues, prompts and models of several architectures."""

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.decoding.beam import BeamResult, search_tree
from recsys.decoding.tree import Tree
from recsys.errors import ModelError
from recsys.tables import IntArray
from recsys.tokenization.trie import Trie
from tests.decoding.backbones import (
    BASE,
    MAX_CODES,
    MAX_LEVELS,
    SUPPORTED,
    backbone,
    item_scores,
    naive_beams,
    pad,
    random_ids,
    random_prompts,
)

TOLERANCE = 1e-4


class Case(NamedTuple):
    """A catalogue, prompts of different lengths, and a width."""

    codes: IntArray
    num_codes: int
    prompts: list[list[int]]
    beams: int
    generator: np.random.Generator

    @property
    def trie(self) -> Trie:
        return Trie.build(self.codes, self.num_codes)

    def search(self, model: Any, **changes: Any) -> BeamResult:
        settings = {"trie": self.trie, "base": BASE, "beams": self.beams} | changes
        return search_tree(Tree(model, *pad(self.prompts)), **settings)

    def scores(self, model: Any, prompt: int) -> torch.Tensor:
        return item_scores(model, self.prompts[prompt], self.codes, self.num_codes)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_codes = draw(st.integers(2, MAX_CODES))
    codes = random_ids(
        generator,
        num_items=draw(st.integers(1, 24)),
        num_levels=draw(st.integers(1, MAX_LEVELS)),
        num_codes=num_codes,
    )
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    return Case(codes, num_codes, random_prompts(generator, lengths), draw(st.integers(1, 30)), generator)


def assert_is_ranking(result: BeamResult, row: int, expected: torch.Tensor, allowed: np.ndarray) -> None:
    """The row holds all allowed items by their expected scores [N], then nothing."""
    count = int(allowed.sum())
    items = result.items[row]
    assert sorted(items[:count].tolist()) == np.flatnonzero(allowed).tolist()
    assert (items[count:] == -1).all()
    assert (result.scores[row, count:] == -torch.inf).all()
    torch.testing.assert_close(result.scores[row, :count], expected[items[:count]], atol=TOLERANCE, rtol=0)
    assert (result.scores[row, :count].diff() <= 0).all()


@pytest.mark.parametrize("name", SUPPORTED)
@given(case=cases())
@settings(deadline=None, max_examples=6)
def test_a_beam_as_wide_as_the_catalogue_is_brute_force(name: str, case: Case) -> None:
    model, count = backbone(name), len(case.codes)
    result = case.search(model, beams=count + 3)
    assert result.items.shape == (len(case.prompts), count + 3)
    for row in range(len(case.prompts)):
        assert_is_ranking(result, row, case.scores(model, row), np.ones(count, dtype=bool))


@given(cases())
@settings(deadline=None, max_examples=25)
def test_a_narrow_beam_keeps_what_a_naive_search_keeps(case: Case) -> None:
    model = backbone("Qwen3")
    result = case.search(model)
    for row, prompt in enumerate(case.prompts):
        kept = naive_beams(model, prompt, case.codes, case.num_codes, case.beams)
        items = result.items[row, : len(kept)]
        assert [tuple(ids) for ids in case.codes[items.numpy()].tolist()] == kept
        assert (result.items[row, len(kept) :] == -1).all()
        torch.testing.assert_close(
            result.scores[row, : len(kept)], case.scores(model, row)[items], atol=TOLERANCE, rtol=0
        )


@given(cases())
@settings(deadline=None, max_examples=25)
def test_results_do_not_depend_on_the_batch(case: Case) -> None:
    model = backbone("Gemma2")
    together = case.search(model)
    for row, prompt in enumerate(case.prompts):
        alone = case._replace(prompts=[prompt]).search(model)
        assert torch.equal(together.items[row], alone.items[0])
        torch.testing.assert_close(together.scores[row], alone.scores[0], atol=TOLERANCE, rtol=0)


@given(cases())
@settings(deadline=None, max_examples=20)
def test_permuting_the_catalogue_changes_nothing(case: Case) -> None:
    model = backbone("Qwen3")
    order = case.generator.permutation(len(case.codes))
    before, after = case.search(model), case._replace(codes=case.codes[order]).search(model)
    renamed = torch.from_numpy(np.append(order, -1))[after.items]
    assert torch.equal(before.items, renamed)
    assert torch.equal(before.scores, after.scores)


@given(cases(), st.floats(0, 1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_a_filter_removes_items_and_changes_no_score(case: Case, share: float, one_for_all: bool) -> None:
    model = backbone("Llama")
    shape = (len(case.prompts), len(case.codes))
    masks = case.generator.random(shape) < share
    if one_for_all:
        masks[:] = masks[0]
    allowed = torch.from_numpy(masks[0] if one_for_all else masks)
    wide = case.search(model, beams=len(case.codes), allowed=allowed)
    narrow = case.search(model, allowed=allowed)
    for row in range(len(case.prompts)):
        expected = case.scores(model, row)
        assert_is_ranking(wide, row, expected, masks[row])
        found = narrow.items[row][narrow.items[row] >= 0]
        assert len(found) >= min(1, masks[row].sum())
        assert masks[row][found.numpy()].all()
        torch.testing.assert_close(narrow.scores[row, : len(found)], expected[found], atol=TOLERANCE, rtol=0)


@given(cases())
@settings(deadline=None, max_examples=20)
def test_ties_break_by_semantic_id(case: Case) -> None:
    model = copy.deepcopy(backbone("Llama"))
    torch.nn.init.zeros_(model.lm_head.weight)  # every code is as likely as any other
    result = case.search(model)
    expected = np.lexsort(case.codes.T[::-1])[: case.beams].tolist()
    for row in result.items.tolist():
        assert row == expected + [-1] * (case.beams - len(expected))


def test_a_catalogue_of_one_item() -> None:
    model = backbone("GPT2")
    case = Case(np.array([[3, 1, 2]]), 4, [[1, 2, 3], [5]], 10, np.random.default_rng(0))
    result = case.search(model)
    assert result.items.tolist() == [[0] + [-1] * 9] * 2
    torch.testing.assert_close(result.scores[0, :1], case.scores(model, 0), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(result.scores[1, :1], case.scores(model, 1), atol=TOLERANCE, rtol=0)


def test_bf16_results_of_a_batch_share_nine_of_ten_items_with_single_prompts() -> None:
    model = copy.deepcopy(backbone("Qwen3")).bfloat16()
    generator = np.random.default_rng(0)
    codes = random_ids(generator, num_items=400, num_levels=4, num_codes=8)
    case = Case(codes, 8, random_prompts(generator, [3, 5, 8, 12, 12, 9]), 10, generator)
    together = case.search(model).items.tolist()
    alone = [case._replace(prompts=[prompt]).search(model).items[0].tolist() for prompt in case.prompts]
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(together, alone, strict=True)]
    assert np.mean(shared) >= 0.9


def test_a_model_in_training_mode_is_refused() -> None:
    model = copy.deepcopy(backbone("Qwen3")).train()
    case = Case(np.array([[0], [1]]), 2, [[1]], 2, np.random.default_rng(0))
    with pytest.raises(ModelError, match=r"training mode.*call model\.eval\(\)"):
        case.search(model)
