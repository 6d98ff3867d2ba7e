"""The trie over a catalogue's semantic ids: valid next codes of a prefix, and the item of a complete id.

Built from codes [N, L]. Nodes of a depth are numbered in the order of their prefixes, so that the children of a node
are consecutive, a smaller node is a smaller prefix, and no child table is needed. Everything is a flat tensor: lookups
are gathers of a fixed shape per level, on the trie's device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.tables import IntArray


class Children(NamedTuple):
    """The children of some nodes, padded to the widest node of the level; all [..., C]."""

    nodes: Tensor  # int64, a valid node also in padding
    codes: Tensor  # int64
    valid: Tensor  # bool, False in padding


@dataclass(frozen=True, repr=False)
class Trie:
    """Compressed rows a level; node 0 of depth 0 is the root, nodes of depth L are the items.

    Node n of depth l has the children `indptr[l][n]` to `indptr[l][n + 1]` of depth l + 1; node m of depth l + 1 is
    reached by the code `codes[l][m]`; `items[m]` is the item index of node m of depth L.
    """

    num_codes: int
    indptr: tuple[Tensor, ...]  # int32 [nodes of depth l + 1]
    codes: tuple[Tensor, ...]  # int32 [nodes of depth l + 1]
    items: Tensor  # int32 [N]
    widths: tuple[int, ...]  # most children of one node, a level

    def __repr__(self) -> str:
        return f"<Trie ({self.num_items} items, {self.num_levels} levels x {self.num_codes} codes)>"

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    @property
    def num_items(self) -> int:
        return len(self.items)

    def num_nodes(self, depth: int) -> int:
        return 1 if depth == 0 else len(self.codes[depth - 1])

    @classmethod
    def build(cls, codes: IntArray, num_codes: int) -> Self:
        """The trie of semantic ids [N, L], row i being item i.

        Raises:
            DataError: there are no ids, a code is not in 0..num_codes-1, or two items share an id.
        """
        if codes.ndim != 2 or not codes.size:
            raise DataError(f"trie: codes of shape {codes.shape}; at least one item and one level are needed")
        if codes.min() < 0 or codes.max() >= num_codes:
            raise DataError(f"trie: codes in {codes.min()}..{codes.max()}; they must lie in 0..{num_codes - 1}")
        order = np.lexsort(codes.T[::-1])
        ids = codes[order].astype(np.int32)
        opens = np.zeros(len(ids), dtype=bool)  # rows that open a new node at the current depth
        opens[0] = True
        starts = np.zeros(1, dtype=np.int64)  # the first row of every node
        indptr, level_codes, widths = [], [], []
        for level in range(ids.shape[1]):
            opens[1:] |= ids[1:, level] != ids[:-1, level]
            count_before = np.cumsum(opens, dtype=np.int32) - 1
            parents, starts = starts, np.flatnonzero(opens)
            rows = np.append(count_before[parents], np.int32(len(starts)))
            indptr.append(torch.from_numpy(rows))
            level_codes.append(torch.from_numpy(ids[starts, level]))
            widths.append(int(np.diff(rows).max()))
        if len(starts) != len(ids):
            raise DataError(f"trie: {len(ids)} items have only {len(starts)} distinct ids; ids must be unique")
        items = torch.from_numpy(order.astype(np.int32))
        return cls(num_codes, tuple(indptr), tuple(level_codes), items, tuple(widths))

    def to(self, device: torch.device | str) -> Self:
        """The same trie on another device."""
        return replace(
            self,
            indptr=tuple(t.to(device) for t in self.indptr),
            codes=tuple(t.to(device) for t in self.codes),
            items=self.items.to(device),
        )

    def children(self, level: int, nodes: Tensor) -> Children:
        """The children [..., C] of nodes [...] (int64) of depth `level`; C is the level's widest node."""
        rows = self.indptr[level]
        steps = torch.arange(self.widths[level], device=nodes.device)
        found = rows[nodes].unsqueeze(-1) + steps
        valid = found < rows[nodes + 1].unsqueeze(-1)
        found = found.clamp_max(self.num_nodes(level + 1) - 1)
        return Children(found, self.codes[level][found].long(), valid)

    def live(self, allowed: Tensor) -> tuple[Tensor, ...]:
        """Nodes that lead to an allowed item: one bool bitmap [..., nodes] for each depth from 1 to L.

        Args:
            allowed: bool [N] or [B, N] over item indices.
        """
        alive = allowed.index_select(-1, self.items.long())
        bitmaps = [alive]
        for rows in reversed(self.indptr[1:]):
            counts = torch.nn.functional.pad(alive.cumsum(-1, dtype=torch.int32), (1, 0)).index_select(-1, rows)
            alive = counts[..., 1:] > counts[..., :-1]
            bitmaps.append(alive)
        return tuple(reversed(bitmaps))
