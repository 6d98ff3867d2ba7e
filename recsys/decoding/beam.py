"""Constrained beam search: the most probable items of a catalogue under a language model.

Reads a causal LM, prompts as token_ids and the `Trie`; returns item indices with log-probabilities. Only ids in the
trie are generated, and a filter removes items without changing the scores of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.decoding.tree import Tree
from recsys.llm.collation import padded
from recsys.llm.reading import ItemReader
from recsys.tables import CandidateFilter, FloatArray, TopItems
from recsys.tokenization.trie import Trie
from recsys.tracking import NullTracker, Tracker


class BeamResult(NamedTuple):
    """Items of every prompt, best first, ties by semantic id."""

    items: Tensor  # int64 [B, k] item indices, padded with -1
    scores: Tensor  # float32 [B, k] log-probabilities, padded with -inf


class _Beams(NamedTuple):
    """The beams of a level; all [B, M]. A dead beam has score -inf and an arbitrary node."""

    nodes: Tensor
    scores: Tensor
    codes: Tensor
    parents: Tensor


@torch.inference_mode()
def search_tree(tree: Tree, *, trie: Trie, base: int, beams: int, allowed: Tensor | None = None) -> BeamResult:
    """The `beams` best items of each prompt of a tree, which has no branches yet; it grows them.

    Exact when `beams` is at least the catalogue.

    Args:
        trie: on the model's device.
        base: token_id of code 0 of level 0; (level l, code c) is `base + l * num_codes + c`.
        beams: kept at each level, and returned.
        allowed: bool [N] or [B, N], the items that may be returned; None allows all.
    """
    root, size = tree.root, trie.num_codes
    batch = len(root)
    bitmaps = None if allowed is None else [live.expand(batch, -1) for live in trie.live(allowed)]
    hidden = root
    nodes = torch.zeros(batch, 1, dtype=torch.int64, device=root.device)
    found = _Beams(nodes, torch.zeros_like(nodes, dtype=torch.float32), nodes, nodes)
    for level in range(trie.num_levels):
        if level:
            hidden = tree.grow(found.codes + (base + (level - 1) * size), found.parents)
        log_probs = tree.logits(hidden, base + level * size, size).log_softmax(-1)
        live = None if bitmaps is None else bitmaps[level]
        found = _step(trie, level, found, log_probs, live=live, beams=beams)
    dead = found.scores == -torch.inf
    items = trie.items[found.nodes].long().masked_fill(dead, -1)
    missing = (0, beams - items.shape[1])
    return BeamResult(
        torch.nn.functional.pad(items, missing, value=-1),
        torch.nn.functional.pad(found.scores, missing, value=-torch.inf),
    )


def _step(trie: Trie, level: int, found: _Beams, log_probs: Tensor, *, live: Tensor | None, beams: int) -> _Beams:
    """The best children of the beams, [B, min(beams, nodes of the next depth)]."""
    nodes, codes, valid = trie.children(level, found.nodes)
    if live is not None:
        valid = valid & live.gather(1, nodes.flatten(1)).view_as(nodes)
    scores = (found.scores.unsqueeze(-1) + log_probs.gather(-1, codes)).masked_fill(~valid, -torch.inf)
    width = min(beams, trie.num_nodes(level + 1))
    best = _ordering(scores, nodes).flatten(1).topk(width).indices
    return _Beams(
        nodes.flatten(1).gather(1, best),
        scores.flatten(1).gather(1, best),
        codes.flatten(1).gather(1, best),
        best // codes.shape[2],
    )


def _ordering(scores: Tensor, nodes: Tensor) -> Tensor:
    """int64 keys that order by higher score, then by smaller node, which is the smaller semantic id."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 maps -0.0 to 0.0
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # negative floats have their bits in reverse order
    return (ascending.long() << 32) - nodes


class Decoded(NamedTuple):
    """Rows in the prompts' order, on the CPU; `tops` has the items of each filter."""

    tops: list[TopItems]
    states: FloatArray  # [U, D] the hidden state behind each prompt


@torch.inference_mode()
def decode_all(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    trie: Trie,
    base: int,
    beams: int,
    batch_size: int,
    filters: Sequence[CandidateFilter] | None = None,
    reader: ItemReader | None = None,
    tracker: Tracker | None = None,
) -> Decoded:
    """`search_tree` of any number of prompts, batched by length; prompts are read once for all filters.

    Args:
        model: a causal LM in evaluation mode that `check_backbone` accepts.
        prompts: U non-empty lists of token_ids.
        filters: each says what may be returned for each prompt; by default one that allows everything.
        reader: see `Tree`.

    Raises:
        ModelError: the model is in training mode.
    """
    device = model.device
    trie, filters = trie.to(device), filters or [CandidateFilter()]
    lengths = np.fromiter((len(p) for p in prompts), dtype=np.int64, count=len(prompts))
    order = np.argsort(-lengths, kind="stable")  # longest first, so that running out of memory shows at once
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    shape = (len(filters), len(prompts), beams)
    items, scores = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
    states = np.zeros((len(prompts), model.get_input_embeddings().weight.shape[1]), dtype=np.float32)
    for rows in (tracker or NullTracker()).track(batches, "decoding", len(batches)):
        tokens = padded([prompts[row] for row in rows])
        tree = Tree(model, tokens.to(device), torch.from_numpy(lengths[rows]).to(device), reader=reader)
        states[rows] = tree.states()
        for number, candidates in enumerate(filters):
            if number:
                tree.rewind()
            mask = candidates.take(rows).mask(len(rows), trie.num_items)
            allowed = None if mask is None else torch.from_numpy(mask).to(device)
            found = search_tree(tree, trie=trie, base=base, beams=beams, allowed=allowed)
            items[number, rows], scores[number, rows] = found.items.cpu().numpy(), found.scores.cpu().numpy()
    return Decoded([TopItems(*top) for top in zip(items, scores, strict=True)], states)
