"""A traced search finds what the search finds, by naive scores, and accounts for all probability."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.decoding.beam import search_tree
from recsys.decoding.scoring import item_log_probabilities
from recsys.decoding.trace import traced_search
from recsys.decoding.tree import Tree
from tests.decoding.backbones import BASE, backbone, item_scores, naive_beams, pad
from tests.decoding.test_beam import TOLERANCE, Case, cases

NAMES = ("Qwen3", "Gemma2")


def traced(case: Case, model: Any, allowed: Any = None) -> Any:
    return traced_search(model, case.prompts[0], trie=case.trie, base=BASE, beams=case.beams, allowed=allowed)


@pytest.mark.parametrize("name", NAMES)
@given(case=cases(), filtered=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_trace_has_what_the_search_finds(name: str, case: Case, filtered: bool) -> None:
    model, allowed = backbone(name), case.generator.random(len(case.codes)) < 0.5 if filtered else None
    trace = traced(case, model, allowed)
    mask = None if allowed is None else torch.from_numpy(allowed)
    found = search_tree(Tree(model, *pad(case.prompts[:1])), trie=case.trie, base=BASE, beams=case.beams, allowed=mask)
    items = found.items[0][found.items[0] >= 0]
    assert [path.item for path in trace.paths] == items.tolist()
    assert [path.score for path in trace.paths] == found.scores[0][: len(items)].tolist()
    naive = item_scores(model, case.prompts[0], case.codes, case.num_codes)
    for path in trace.paths:
        assert path.codes == tuple(case.codes[path.item])
        assert sum(path.log_probabilities) == pytest.approx(path.score, abs=1e-5)
        assert path.score == pytest.approx(float(naive[path.item]), abs=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
@given(case=cases(), filtered=st.booleans())
@settings(max_examples=15, deadline=None)
def test_all_probability_is_accounted_for(name: str, case: Case, filtered: bool) -> None:
    """By a sum over all combinations of codes of each level, one sequence each."""
    model, allowed = backbone(name), case.generator.random(len(case.codes)) < 0.5 if filtered else None
    trace = traced(case, model, allowed)
    assert len(trace.levels) == case.codes.shape[1]
    for level in trace.levels:
        assert sum(level) == pytest.approx(1, abs=1e-5)
        assert min(level) >= 0
    if filtered:
        return
    first = {tuple(p[:1]) for p in case.codes.tolist()}
    every = np.arange(case.num_codes)[:, None]
    probabilities = item_scores(model, case.prompts[0], every, case.num_codes).exp()
    survivors = naive_beams(model, case.prompts[0], case.codes[:, :1], case.num_codes, case.beams)
    wanted = {"kept": 0.0, "pruned": 0.0, "no_item": 0.0}
    for code, probability in enumerate(probabilities.tolist()):
        wanted["kept" if (code,) in survivors else "pruned" if (code,) in first else "no_item"] += probability
    assert {name: getattr(trace.levels[0], name) for name in wanted} == pytest.approx(wanted, abs=TOLERANCE)
    assert (trace.levels[0].filtered, trace.levels[0].earlier) == (0, 0)


def test_what_a_filter_leaves_out_is_no_code_without_items() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    case = Case(codes, 3, [[1, 2, 3]], 9, np.random.default_rng(0))
    free, held = traced(case, backbone("Qwen3")), traced(case, backbone("Qwen3"), np.array([True, False, False]))
    assert [path.item for path in held.paths] == [0]
    probabilities = np.exp([next(p for p in free.paths if p.item == item).log_probabilities[0] for item in (0, 2)])
    assert held.levels[0][:4] == pytest.approx((probabilities[0], 0, probabilities[1], 1 - probabilities.sum()))
    assert held.levels[1].filtered == pytest.approx(np.exp(next(p.score for p in free.paths if p.item == 1)))
    assert held.levels[1].earlier == pytest.approx(1 - probabilities[0])
    nothing = traced(case, backbone("Qwen3"), np.zeros(3, np.bool_))
    assert (nothing.paths, nothing.levels[-1].earlier) == ((), pytest.approx(1))


@pytest.mark.parametrize("name", NAMES)
@given(case=cases())
@settings(max_examples=10, deadline=None)
def test_an_item_is_scored_after_prompts_of_any_length(name: str, case: Case) -> None:
    model, item = backbone(name), int(case.generator.integers(len(case.codes)))
    token_ids = case.codes[item] + BASE + np.arange(case.codes.shape[1]) * case.num_codes
    found = item_log_probabilities(model, case.prompts, token_ids.tolist(), base=BASE, num_codes=case.num_codes)
    wanted = [float(case.scores(model, row)[item]) for row in range(len(case.prompts))]
    assert found == pytest.approx(wanted, abs=TOLERANCE)
