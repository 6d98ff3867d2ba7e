"""Tree-attention beam search against `generate` with `prefix_allowed_tokens_fn`, a single prefill, and no constraint.

Run as `python -m tests.benchmarks.decode`; prints one JSON line a measurement. The model is a 35-M-parameter Llama with
random weights, which do not affect speed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recsys.decoding.beam import search_tree
from recsys.decoding.tree import Tree
from recsys.tables import IntArray
from recsys.tokenization.trie import Children, Trie
from recsys.training.devices import default_device
from tests.benchmarks.common import device_name, emit, interleaved

BATCH, BEAMS, PROMPT, ITEMS, LEVELS, CODES, TEXT_TOKENS = 8, 20, 128, 12_000, 4, 256, 16_000
ROUNDS, QUICK_ROUNDS = 3, 30
DEVICE = default_device()


class Unconstrained(Trie):
    """All codes are valid after every prefix: the same search without constraint."""

    def children(self, level: int, nodes: torch.Tensor) -> Children:
        codes = torch.arange(self.num_codes, device=nodes.device).expand(*nodes.shape, -1)
        return Children(codes, codes, torch.ones_like(codes, dtype=torch.bool))


def random_ids(num_items: int, generator: np.random.Generator) -> IntArray:
    """Unique semantic ids [num_items, LEVELS], spread evenly as a balanced tokenizer's are."""
    numbers = np.unique(generator.integers(CODES**LEVELS, size=num_items + num_items // 100))
    numbers = generator.permutation(numbers)[:num_items]
    return np.stack([numbers // CODES**power % CODES for power in range(LEVELS)], axis=1)


def allowed_tokens(codes: IntArray) -> Callable[[int, torch.Tensor], list[int]]:
    """The usual constraint: a dictionary from prefix to valid next tokens."""
    followers: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for row in (codes + TEXT_TOKENS + np.arange(LEVELS) * CODES).tolist():
        for level in range(LEVELS):
            followers[tuple(row[:level])].add(row[level])
    lists = {prefix: sorted(tokens) for prefix, tokens in followers.items()}
    return lambda _, ids: lists.get(tuple(ids[PROMPT:].tolist()), [0])


def llama(*, hidden: int, layers: int) -> Any:
    config = LlamaConfig(
        vocab_size=TEXT_TOKENS + LEVELS * CODES,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval().to(DEVICE)


def compare_searches(codes: IntArray, prompts: torch.Tensor) -> float:
    """Compare beam search, `generate` and a prefill; returns the seconds of a beam search."""
    model, trie, followers = llama(hidden=512, layers=8), Trie.build(codes, CODES).to(DEVICE), allowed_tokens(codes)
    lengths = torch.full((BATCH,), PROMPT, device=DEVICE)

    @torch.inference_mode()
    def prefill() -> object:
        return Tree(model, prompts, lengths).root

    def generate() -> object:
        return model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            max_new_tokens=LEVELS,
            do_sample=False,
            prefix_allowed_tokens_fn=followers,
        )

    @torch.inference_mode()
    def search() -> object:
        return search_tree(Tree(model, prompts, lengths), trie=trie, base=TEXT_TOKENS, beams=BEAMS)

    seconds = interleaved({"generate": generate, "search": search, "prefill": prefill}, rounds=ROUNDS)
    shape = {"batch": BATCH, "beams": BEAMS, "prompt": PROMPT, "items": ITEMS, "parameters": model.num_parameters()}
    emit("decode", "generate", seconds=seconds["generate"], device=device_name(), **shape)
    emit(
        "decode",
        "beam_search",
        seconds=seconds["search"],
        times_faster=seconds["generate"] / seconds["search"],
        times_of_prefill=seconds["search"] / seconds["prefill"],
    )
    return seconds["search"]


def measure_constraint(codes: IntArray, prompts: torch.Tensor, allowed: torch.Tensor, *, whole: float) -> None:
    """The cost of the trie and of a filter, measured on a tiny model, as a share of `whole` seconds."""
    model, trie = llama(hidden=64, layers=1), Trie.build(codes, CODES).to(DEVICE)
    free = Unconstrained(trie.num_codes, trie.indptr, trie.codes, trie.items, trie.widths)
    lengths = torch.full((BATCH,), PROMPT, device=DEVICE)

    def search(over: Trie, stock: torch.Tensor | None = None) -> Callable[[], object]:
        @torch.inference_mode()
        def found() -> object:
            tree = Tree(model, prompts, lengths)
            return search_tree(tree, trie=over, base=TEXT_TOKENS, beams=BEAMS, allowed=stock)

        return found

    contenders = {"without": search(free), "trie": search(trie), "trie and filter": search(trie, allowed)}
    seconds = interleaved(contenders, rounds=QUICK_ROUNDS)
    for name in ("trie", "trie and filter"):
        added = seconds[name] - seconds["without"]
        emit("decode", name, added_seconds=added, overhead_percent=100 * added / whole)


def build_large(generator: np.random.Generator) -> None:
    codes = random_ids(1_000_000, generator)
    start = time.perf_counter()
    trie = Trie.build(codes, CODES)
    seconds = time.perf_counter() - start
    num_bytes = sum(t.nbytes for t in (*trie.indptr, *trie.codes, trie.items))
    emit("decode", "trie build", items=len(codes), seconds=seconds, bytes_an_item=num_bytes / len(codes))


if __name__ == "__main__":
    torch.manual_seed(0)
    numbers = np.random.default_rng(0)
    ids = random_ids(ITEMS, numbers)
    queries = torch.from_numpy(numbers.integers(TEXT_TOKENS, size=(BATCH, PROMPT))).to(DEVICE)
    in_stock = torch.from_numpy(numbers.random((BATCH, ITEMS)) < 0.9).to(DEVICE)
    search_seconds = compare_searches(ids, queries)
    measure_constraint(ids, queries, in_stock, whole=search_seconds)
    build_large(numbers)
