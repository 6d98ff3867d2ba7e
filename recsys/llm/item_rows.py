"""Training rows in which an item takes one position: `recsys.llm.collation`'s rows, with branches that write items.

The trunk of a row is read: text, and a token for every item. Wherever the answer has an item, the state before it
predicts the item's first code, and a branch at that place writes the other codes, each predicted from those before; the
trunk goes on with the item itself. So every item of a history is written in one pass, as the decoder will write it:
behind the history's items, at the next position. The same states predict the whole item (`recsys.llm.item_loss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.llm.attention import PADDING
from recsys.llm.collation import IGNORED, Renderer, Row, padded
from recsys.llm.items import ages
from recsys.llm.parts import Counts, RowForm, part_weights
from recsys.tables import FloatArray, IntArray


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
    """One rendered row, whose answer is so many items, or other tokens."""

    row: Row
    num_items: int
    first: int  # token of the first item of the catalogue
    codes: IntArray  # [N, L] code tokens of the catalogue

    @property
    def size(self) -> int:
        """Tokens of the trunk and of all branches; the last token of the trunk predicts nothing and is left out."""
        depth: int = self.codes.shape[1] - 1
        return len(self.row.tokens) - 1 + self.num_items * depth


def branched_form(renderer: Renderer) -> RowForm:
    """Rows with branches, in an `ItemBatch`; branches count as tokens."""
    return RowForm(lambda row: branched(row, renderer), lambda row: row.size, collate, _counts, _part)


def branched(row: Row, renderer: Renderer) -> BranchedRow:
    """A row of a renderer with one position an item, whose answer is either items or text."""
    first = renderer.first_item
    assert first is not None
    size = len(row.tokens) - row.answer
    return BranchedRow(row, size if size and row.tokens[row.answer] >= first else 0, first, renderer.code_array)


def _counts(row: BranchedRow) -> Counts:
    if not row.num_items:
        return Counts(len(row.row.tokens) - row.row.answer)
    weights = row.row.weights
    items = row.num_items if weights is None else sum(weight > 0 for weight in weights)
    return Counts(items * row.codes.shape[1], items)


def _part(batch: ItemBatch, total: Counts) -> ItemBatch:
    weights = part_weights(batch.targets, batch.weights, total)
    share = len(batch.items) / max(total.items, 1)
    factors = torch.full(batch.items.shape, share) if batch.item_weights is None else batch.item_weights * share
    return batch._replace(weights=weights, item_weights=factors)


class _Places(NamedTuple):
    """Where the items of a batch's answers are, in the order of rows and columns; all [P]."""

    rows: IntArray
    numbers: IntArray  # within its row, from 0
    columns: IntArray  # before the item
    items: IntArray
    branches: IntArray


def _places(rows: Sequence[BranchedRow], tokens: IntArray) -> _Places:
    counts, depth = np.array([row.num_items for row in rows]), rows[0].codes.shape[1] - 1
    at = np.repeat(np.arange(len(rows)), counts)
    numbers = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    answers, sizes = np.array([(row.row.answer, len(row.row.tokens)) for row in rows]).T[:, at]
    items = tokens[at, answers + numbers] - rows[0].first
    return _Places(at, numbers, answers - 1 + numbers, items, sizes - 1 + depth * numbers)


def collate(rows: Sequence[BranchedRow]) -> ItemBatch:
    """Right-padded, and everything about items in the order of rows and columns."""
    codes = rows[0].codes
    depth, rendered = codes.shape[1] - 1, padded([row.row.tokens for row in rows]).numpy()
    places = _places(rows, rendered)
    tokens, targets, positions, reach, branch = _trunks(rows, rendered)
    row, end, written = places.rows, places.columns + 1, codes[places.items]
    targets[row, places.columns] = written[:, 0]
    for step in range(depth):
        column = places.branches + step
        tokens[row, column], targets[row, column] = written[:, step], written[:, step + 1]
        positions[row, column], reach[row, column], branch[row, column] = end + step, end, places.numbers + 1
    weights, factors = _weights(rows, places, targets.shape, depth)
    kept = factors > 0
    numbers = np.cumsum(kept) - 1  # of an item among those that are kept
    seen_by, seen, distances = _seen(places.rows, places.items)
    listed = kept[seen_by]
    if weights is not None:
        targets = np.where(weights > 0, targets, IGNORED)
    array = torch.from_numpy
    return ItemBatch(
        array(tokens),
        array(targets),
        None if weights is None else array(weights),
        array(positions),
        array(reach),
        array(branch),
        array(places.rows[kept]),
        array(places.columns[kept]),
        array(places.items[kept]),
        array(places.branches[kept]),
        None if weights is None else array(factors[kept]).float(),
        array(numbers[seen_by][listed]),
        array(seen[listed]),
        ages(array(distances[listed])),
    )


def _trunks(rows: Sequence[BranchedRow], tokens: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Tokens, targets other than items, positions, reach and branch of the trunks, [B, T], T with room for branches."""
    width = max(row.size for row in rows)
    whole = np.pad(tokens, ((0, 0), (0, max(width + 1 - tokens.shape[1], 0))))
    columns, ends = np.arange(width), np.array([len(row.row.tokens) - 1 for row in rows])[:, None]
    inside = columns < ends
    starts = np.array([width if row.num_items else row.row.answer - 1 for row in rows])[:, None]
    return (
        np.where(inside, whole[:, :width], 0),
        np.where(inside & (columns >= starts), whole[:, 1 : width + 1], IGNORED),
        np.where(inside, columns, 0),
        np.where(inside, columns + 1, 0),
        np.where(inside, 0, PADDING),
    )


def _weights(
    rows: Sequence[BranchedRow], places: _Places, shape: tuple[int, ...], depth: int
) -> tuple[FloatArray | None, NDArray[np.float64]]:
    """Factors [B, T] of all targets, or None, and [P] of the items."""
    weighted = np.array([row.row.weights is not None and row.num_items > 0 for row in rows])
    factors = np.ones(len(places.rows))
    if not weighted.any():
        return None, factors
    own = weighted[places.rows]
    factors[own] = [*chain.from_iterable(row.row.weights or () for row in rows if row.num_items)]
    sizes = np.array([row.size for row in rows])[:, None]
    weights = ((np.arange(shape[1]) < sizes) & ~weighted[:, None]).astype(np.float32)
    weights[places.rows, places.columns] = factors
    for step in range(depth):
        weights[places.rows, places.branches + step] = factors
    return weights, factors


def _seen(rows: IntArray, items: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """For every item [P], in order, the items before it in its row: pairs [S], each item of a row once.

    Returns:
        [S] number of the later item, ascending; the earlier item; how many items ago it was chosen last.
    """
    places = np.arange(len(items))
    last = np.searchsorted(rows, rows, side="right") - 1
    counts = np.minimum(_next_same(items), last) - places  # it is the last of its kind until it comes again
    at = np.repeat(places, counts)
    distance = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    by = at + distance
    order = np.argsort(by, kind="stable")
    return by[order], items[at][order], distance[order]


def _next_same(items: IntArray) -> IntArray:
    """For each place [P] the next one with the same item, maybe of a later row; P where there is none."""
    found = np.full(len(items), len(items))
    order = np.argsort(items, kind="stable")
    same = items[order[1:]] == items[order[:-1]]
    found[order[:-1][same]] = order[1:][same]
    return found
