"""Many prompts: batches by length, filters by prompt, and results in the prompts' order."""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.decoding import beam
from recsys.decoding.beam import decode_all, search_tree
from recsys.decoding.tree import Tree
from recsys.tables import CandidateFilter
from recsys.tokenization.trie import Trie
from recsys.tracking import NullTracker
from tests.decoding.backbones import BASE, backbone, pad, random_ids, random_prompts

T = TypeVar("T")
LENGTHS = [3, 11, 1, 7, 7, 2, 12]


class CountingTracker(NullTracker):
    def __init__(self) -> None:
        self.totals: list[int | None] = []

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        self.totals.append(total)
        return iterable


def test_rows_are_in_the_order_of_the_prompts_whatever_the_batches() -> None:
    generator, model = np.random.default_rng(1), backbone("Qwen3")
    trie = Trie.build(random_ids(generator, num_items=50, num_levels=3, num_codes=8), 8)
    prompts, tracker = random_prompts(generator, LENGTHS), CountingTracker()
    result = decode_all(model, prompts, trie=trie, base=BASE, beams=5, batch_size=3, tracker=tracker).tops[0]
    assert tracker.totals == [3]
    for row, prompt in enumerate(prompts):
        alone = search_tree(Tree(model, *pad([prompt])), trie=trie, base=BASE, beams=5)
        assert result.items[row].tolist() == alone.items[0].tolist()
        np.testing.assert_allclose(result.scores[row], alone.scores[0], atol=1e-4, rtol=0)


def test_states_are_those_behind_each_prompt() -> None:
    generator, model = np.random.default_rng(4), backbone("Qwen3")
    trie = Trie.build(random_ids(generator, num_items=20, num_levels=2, num_codes=8), 8)
    prompts = random_prompts(generator, LENGTHS)
    states = decode_all(model, prompts, trie=trie, base=BASE, beams=5, batch_size=3).states
    for row, prompt in enumerate(prompts):
        with torch.inference_mode():
            hidden = model.model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        np.testing.assert_allclose(states[row], hidden, atol=1e-5)


def test_each_prompt_gets_all_but_its_own_exclusions() -> None:
    generator, model = np.random.default_rng(2), backbone("Qwen3")
    codes = random_ids(generator, num_items=12, num_levels=2, num_codes=8)
    excluded = [generator.choice(len(codes), size=size, replace=False) for size in (0, 1, 3, 5, 2, 4, len(codes))]
    result = decode_all(
        model,
        random_prompts(generator, LENGTHS),
        trie=Trie.build(codes, 8),
        base=BASE,
        beams=len(codes),
        batch_size=2,
        filters=[CandidateFilter(excluded)],
    ).tops[0]
    for row, gone in enumerate(excluded):
        found = result.items[row][result.items[row] >= 0].tolist()
        assert sorted(found) == sorted(set(range(len(codes))) - set(gone.tolist()))


def test_one_filter_for_all_prompts() -> None:
    generator, model = np.random.default_rng(3), backbone("Llama")
    codes = random_ids(generator, num_items=20, num_levels=2, num_codes=8)
    candidates = CandidateFilter(allowed=np.arange(len(codes)) < 4)
    prompts = random_prompts(generator, LENGTHS)
    trie = Trie.build(codes, 8)
    result = decode_all(model, prompts, trie=trie, base=BASE, beams=6, batch_size=4, filters=[candidates]).tops[0]
    assert all(sorted(row) == [-1, -1, 0, 1, 2, 3] for row in result.items.tolist())


def test_no_prompts_give_no_rows() -> None:
    trie = Trie.build(np.array([[0, 1]]), 2)
    result = decode_all(backbone("Llama"), [], trie=trie, base=BASE, beams=4, batch_size=2)
    assert result.tops[0].items.shape == result.tops[0].scores.shape == (0, 4)
    assert len(result.states) == 0


def test_several_filters_read_the_prompts_once_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, model = np.random.default_rng(5), backbone("Gemma3")
    codes = random_ids(generator, num_items=40, num_levels=3, num_codes=8)
    prompts, read = random_prompts(generator, LENGTHS), list[int]()

    class CountedTree(Tree):
        def __init__(self, model: Any, prompts: Tensor, lengths: Tensor, **options: Any) -> None:
            read.append(len(prompts))
            super().__init__(model, prompts, lengths, **options)

    monkeypatch.setattr(beam, "Tree", CountedTree)
    trie = Trie.build(codes, 8)
    filters = [CandidateFilter(), CandidateFilter([generator.choice(40, 9) for _ in prompts]), CandidateFilter()]
    together = decode_all(model, prompts, trie=trie, base=BASE, beams=6, batch_size=3, filters=filters)
    assert read == [3, 3, 1]
    for top, candidates in zip(together.tops, filters, strict=True):
        alone = decode_all(model, prompts, trie=trie, base=BASE, beams=6, batch_size=3, filters=[candidates])
        assert np.array_equal(top.items, alone.tops[0].items)
        assert top.scores.tobytes() == alone.tops[0].scores.tobytes()
        assert np.array_equal(together.states, alone.states)
    assert not np.array_equal(together.tops[0].items, together.tops[1].items)
