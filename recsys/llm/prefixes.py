"""Rows that codes are written by in the context of the codes before: what the items below a prefix have in common.

A code alone says little once others stand before it: behind `<a_7>`, `<b_3>` means the few items that carry both. So
the row of a code is its own and, beside it, the mean of what is left of those items' vectors, and the logarithm of how
many they are: to first order the logit that a softmax over all items gives to them together. Items that training does
not know have no part in it, so that adding some changes no other item's score.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.tokenization.trie import Trie

_GATHERED = 2**24  # numbers at once, where no gradients are kept


class PrefixTree:
    """The prefixes of a catalogue's semantic ids, and the known items below each.

    Args:
        codes: int64 [N, L], those of level l from l * K on.
        known: float [N], 1 for items that training knows.
    """

    def __init__(self, codes: Tensor, num_codes: int, known: Tensor) -> None:
        self.codes, self.known = codes, known
        self.trie = Trie.build((codes % num_codes).cpu().numpy(), num_codes).to(known.device)
        self.nodes = [self._nodes(depth) for depth in range(1, self.trie.num_levels + 1)]  # [N] of each item
        self.counts = [
            known.new_zeros(self.trie.num_nodes(depth)).index_add(0, nodes, known)
            for depth, nodes in enumerate(self.nodes, start=1)
        ]

    def _nodes(self, depth: int) -> Tensor:
        starts = torch.arange(self.trie.num_nodes(depth), device=self.known.device)
        for rows in self.trie.indptr[depth:]:
            starts = rows[starts].long()
        opens = torch.zeros(self.trie.num_items, dtype=torch.int64, device=self.known.device)
        opens[starts] = 1
        found = torch.empty_like(opens)
        found[self.trie.items.long()] = opens.cumsum(0) - 1
        return found


class PrefixRows(NamedTuple):
    """Of every node of each depth from 1 to L, its row [nodes, d] and the logarithm of its known items [nodes]."""

    tree: PrefixTree
    rows: tuple[Tensor, ...]
    logs: tuple[Tensor, ...]

    @classmethod
    def of(cls, tree: PrefixTree, vectors: Tensor, code_rows: Tensor) -> Self:
        """From the items' vectors [N, d], of which the rows [L * K, d] of their codes are a part."""
        rows, logs, left = [], [], vectors
        for level, (nodes, counts) in enumerate(zip(tree.nodes, tree.counts, strict=True)):
            left = left - F.embedding(tree.codes[:, level], code_rows)
            known = left * tree.known[:, None]
            divisor = counts.clamp_min(1)
            rows.append(left.new_zeros(len(counts), left.shape[1]).index_add(0, nodes, known) / divisor[:, None])
            logs.append(divisor.log())
        return cls(tree, tuple(rows), tuple(logs))

    def add(self, logits: Tensor, hidden: Tensor, level: int, nodes: Tensor) -> Tensor:
        """Logits [..., K] of the codes of a level with the terms of their prefixes.

        Args:
            hidden: [..., d] that they are written from.
            nodes: int64 [...] of depth `level`, the codes before.
        """
        trie, rows, logs = self.tree.trie, self.rows[level], self.logs[level]
        if not nodes.numel():
            return logits
        if level == 0:
            return logits.index_add(-1, trie.codes[0].long(), hidden @ rows.T + logs)
        shape, width = nodes.shape, trie.widths[level]
        size = max(1, _GATHERED // (width * rows.shape[1]))
        if torch.is_grad_enabled() or nodes.numel() <= size:
            size = max(1, nodes.numel())
        flat, states, terms, codes = nodes.flatten(), hidden.flatten(0, -2), [], []
        for start in range(0, len(flat), size):
            children = trie.children(level, flat[start : start + size])
            products = (rows[children.nodes] @ states[start : start + size, :, None]).squeeze(-1)
            terms.append((products + logs[children.nodes]).masked_fill(~children.valid, 0))
            codes.append(children.codes)
        new = (*shape, width)
        return logits.scatter_add(-1, torch.cat(codes).view(new), torch.cat(terms).view(new).to(logits.dtype))

    def child(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """The nodes of depth `level` + 1 behind a code of each of `nodes`; any where there is none."""
        children = self.tree.trie.children(level, nodes)
        matching = (children.codes == codes.unsqueeze(-1)) & children.valid
        return children.nodes.gather(-1, matching.long().argmax(-1, keepdim=True)).squeeze(-1)
