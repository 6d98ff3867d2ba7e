"""Parts of an optimizer step: several batches, and several processes that share the rows of each.

A loss is a mean over what a batch predicts. The weights of a part are scaled by its share of what the whole step
predicts, so that the losses of all parts, and their gradients, add up to those of one batch of all rows. Every process
makes the rows of a whole epoch, so each knows all counts without asking the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """How many terms the losses of some rows are means over."""

    targets: int = 0  # tokens that are predicted
    items: int = 0  # items that are predicted as a whole


class RowForm(NamedTuple):
    """What a rendered row becomes, and how such rows become a batch.

    Attributes:
        size: tokens of a row; those of a batch are limited.
        counts: what a row adds to the counts of its batch.
        part: a batch and the counts of the step that it is a part of -> the batch, its losses scaled to its share.
    """

    shape: Callable[[Any], Any]
    size: Callable[[Any], int]
    collate: Callable[[list[Any]], Any]
    counts: Callable[[Any], Counts]
    part: Callable[[Any, Counts], Any]


class Split(NamedTuple):
    """Who trains on what: a step is of `accumulation` batches, and each batch's rows are dealt to the processes."""

    rank: int = 0
    processes: int = 1
    accumulation: int = 1


WHOLE = Split()


def step_parts(groups: Sequence[Sequence[Any]], form: RowForm, split: Split) -> list[Any]:
    """One process's parts of a step over the rows of some batches; it may have none of a batch of few rows."""
    counts = [form.counts(row) for row in chain.from_iterable(groups)]
    total = Counts(sum(count.targets for count in counts), sum(count.items for count in counts))
    dealt = (list(group[split.rank :: split.processes]) for group in groups)
    return [form.part(form.collate(rows), total) for rows in dealt if rows]


def part_weights(targets: Tensor, weights: Tensor | None, total: Counts) -> Tensor:
    """Factors of the targets of a part, whose losses are divided by the number of its own."""
    share = int((targets >= 0).sum()) / max(total.targets, 1)
    return torch.full(targets.shape, share) if weights is None else weights * share
