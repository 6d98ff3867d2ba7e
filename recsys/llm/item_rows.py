"""Training rows in which an item takes one position: `recsys.llm.collation`'s rows, with branches that write items.

The trunk of a row is read: text, and a token for every item. Wherever the answer has an item, the state before it
predicts the item's first code, and a branch at that place writes the other codes, each predicted from those before; the
trunk goes on with the item itself. So every item of a history is written in one pass, as the decoder will write it:
behind the history's items, at the next position. The same states predict the whole item (`recsys.llm.item_loss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.llm.attention import PADDING
from recsys.llm.collation import IGNORED, Renderer, Row, RowForm, padded
from recsys.llm.items import ages
from recsys.tables import IntArray


class ItemBatch(NamedTuple):
    """P is the number of items to predict, S that of pairs of one of them and an item of the history before it."""

    tokens: Tensor  # int64 [B, T] token_ids
    targets: Tensor  # [B, T] next token_id, IGNORED where nothing is predicted
    weights: Tensor | None  # float32 [B, T] of the targets
    positions: Tensor  # [B, T], see `recsys.llm.attention.Branches`, as the next two
    reach: Tensor
    branch: Tensor
    rows: Tensor  # [P] where the state before an item is
    columns: Tensor  # [P]
    items: Tensor  # [P] the item
    branches: Tensor  # [P] column of the first token of the branch that writes it
    item_weights: Tensor | None  # float32 [P]
    seen_by: Tensor  # [S] number of the item to predict, ascending
    seen: Tensor  # [S] item of the history before it
    seen_ages: Tensor  # [S] group of how long ago it was chosen last


class BranchedRow(NamedTuple):
    """One row, and the items [n] of its answer with the column before each."""

    tokens: list[int]
    targets: list[int]
    weights: list[float] | None
    positions: list[int]
    reach: list[int]
    branch: list[int]
    columns: IntArray
    items: IntArray
    branches: IntArray
    item_weights: list[float] | None


def branched_form(renderer: Renderer) -> RowForm:
    """Rows with branches, in an `ItemBatch`; branches count as tokens."""
    return RowForm(lambda row: branched(row, renderer), collate)


def branched(row: Row, renderer: Renderer) -> BranchedRow:
    """A row of a renderer with one position an item, whose answer is either items or text."""
    first = renderer.first_item
    assert first is not None
    answer = row.tokens[row.answer :]
    if not answer or answer[0] < first:
        return _plain(row)
    trunk, before = row.tokens[:-1], row.answer - 1  # the last item is no input; the state before the first item
    items = np.array(answer) - first
    codes = [renderer.code_tokens[item] for item in items]
    size, depth = len(trunk), len(codes[0]) - 1
    ends = range(before + 1, before + 1 + len(items))
    tokens, targets = list(trunk), [IGNORED] * before + [code[0] for code in codes]
    positions, reach, branch = list(range(size)), list(range(1, size + 1)), [0] * size
    for number, (code, end) in enumerate(zip(codes, ends, strict=True), start=1):
        tokens += code[:-1]
        targets += code[1:]
        positions += range(end, end + depth)
        reach += [end] * depth
        branch += [number] * depth
    weights = None
    if row.weights is not None:
        weights = [0.0] * before + row.weights + np.repeat(row.weights, depth).tolist()
    columns = np.arange(before, before + len(items))
    branches = size + depth * np.arange(len(items))
    return BranchedRow(tokens, targets, weights, positions, reach, branch, columns, items, branches, row.weights)


def _plain(row: Row) -> BranchedRow:
    """A row that writes text: a trunk without branches."""
    tokens = row.tokens[:-1]
    targets = [IGNORED] * (row.answer - 1) + row.tokens[row.answer :]
    positions, none = list(range(len(tokens))), np.zeros(0, np.int64)
    reach = list(range(1, len(tokens) + 1))
    return BranchedRow(tokens, targets, None, positions, reach, [0] * len(tokens), none, none, none, None)


def collate(rows: Sequence[BranchedRow]) -> ItemBatch:
    """Right-padded, and everything about items in the order of rows and columns."""
    targets, weights, item_weights = padded([row.targets for row in rows], IGNORED), None, None
    if any(row.weights is not None for row in rows):
        own = [row.weights or [1.0] * len(row.tokens) for row in rows]
        weights = torch.zeros(targets.shape)
        for number, values in enumerate(own):
            weights[number, : len(values)] = torch.tensor(values)
        targets = targets.where(weights > 0, IGNORED)
    factors = np.concatenate([[1.0] * len(row.items) if row.item_weights is None else row.item_weights for row in rows])
    kept = factors > 0
    if weights is not None:
        item_weights = torch.from_numpy(factors[kept]).float()
    numbers = np.cumsum(kept) - 1  # of an item among those that are kept
    seen_by, seen, distances = _seen([row.items for row in rows])
    listed = kept[seen_by]
    return ItemBatch(
        padded([row.tokens for row in rows]),
        targets,
        weights,
        padded([row.positions for row in rows]),
        padded([row.reach for row in rows]),
        padded([row.branch for row in rows], PADDING),
        torch.from_numpy(np.repeat(np.arange(len(rows)), [len(row.items) for row in rows])[kept]),
        torch.from_numpy(np.concatenate([row.columns for row in rows])[kept]),
        torch.from_numpy(np.concatenate([row.items for row in rows])[kept]),
        torch.from_numpy(np.concatenate([row.branches for row in rows])[kept]),
        item_weights,
        torch.from_numpy(numbers[seen_by][listed]),
        torch.from_numpy(seen[listed]),
        ages(torch.from_numpy(distances[listed])),
    )


def _seen(sequences: Sequence[IntArray]) -> tuple[IntArray, IntArray, IntArray]:
    """For every item of the sequences [P], in order, the items before it in its own: pairs [S], each item once.

    Returns:
        [S] number of the later item, ascending; the earlier item; how many items ago it was chosen last.
    """
    parts: list[tuple[IntArray, IntArray, IntArray]] = []
    start = 0
    for items in sequences:
        size = len(items)
        following = _next_same(items)
        counts = np.minimum(following, size - 1) - np.arange(size)  # it is the last of its kind until it comes again
        at = np.repeat(np.arange(size), counts)
        distance = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        parts.append((start + at + distance, items[at], distance))
        start += size
    none = np.zeros(0, np.int64)
    by, seen, distance = (np.concatenate([none, *column]) for column in zip(*parts, strict=True))
    order = np.argsort(by, kind="stable")
    return by[order], seen[order], distance[order]


def _next_same(items: IntArray) -> IntArray:
    """For each place of a sequence [n] the next one with the same item; n where there is none."""
    found = np.full(len(items), len(items))
    order = np.argsort(items, kind="stable")
    same = items[order[1:]] == items[order[:-1]]
    found[order[:-1][same]] = order[1:][same]
    return found
