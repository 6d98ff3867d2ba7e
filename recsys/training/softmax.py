"""Full-softmax cross-entropy over a catalogue in bounded memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ROWS = 128  # rows whose logits are in memory at once; small enough to stay near the cache


class Terms(NamedTuple):
    """What is added to single logits: `values[groups[s]]` to that of item `items[s]` in row `rows[s]`.

    No pair of row and item occurs twice.
    """

    rows: Tensor  # int64 [S], ascending
    items: Tensor  # int64 [S]
    groups: Tensor  # int64 [S]
    values: Tensor  # [G], may need gradients


def softmax_loss(
    hidden: Tensor, items: Tensor, targets: Tensor, *, weights: Tensor | None = None, terms: Terms | None = None
) -> Tensor:
    """Mean cross-entropy of hidden [P, D] against all items [N, D], holding `CHUNK_ROWS` x N logits at a time.

    Args:
        targets: int64 [P].
        weights: [P], by which each row's cross-entropy is multiplied; the sum is still divided by P.
        terms: of single logits.
    """
    added = (None, None, None, None) if terms is None else terms
    loss: Tensor = _SoftmaxLoss.apply(hidden, items, targets, weights, *added)  # type: ignore[no-untyped-call]
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    """Gradients are computed in the forward pass, while the probabilities are there: no logit is kept or recomputed."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        items: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        rows: Tensor | None,
        columns: Tensor | None,
        groups: Tensor | None,
        values: Tensor | None,
    ) -> Tensor:
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        grad_values = None if values is None else torch.zeros_like(values)
        buffer = torch.empty(CHUNK_ROWS, len(items), dtype=hidden.dtype, device=hidden.device)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(hidden))
            states, target = hidden[start:stop], targets[start:stop]
            logits = torch.mm(states, items.T, out=buffer[: stop - start])
            if rows is not None and columns is not None and groups is not None and values is not None:
                first, last = torch.searchsorted(rows, torch.tensor([start, stop], device=rows.device)).tolist()
                row, column, group = rows[first:last] - start, columns[first:last], groups[first:last]
                logits[row, column] += values[group]
            peak = logits.amax(dim=1, keepdim=True)
            score = logits.gather(1, target[:, None]) - peak
            mass = logits.sub_(peak).exp_().sum(dim=1, keepdim=True)
            losses, gradient = mass.log() - score, logits @ items / mass - items[target]
            factors = None if weights is None else weights[start:stop, None]
            if grad_values is not None:
                errors = logits[row, column] / mass[row, 0] - (target[row] == column).to(logits.dtype)
                grad_values.index_add_(0, group, errors if factors is None else errors * factors[row, 0])
            if factors is not None:
                losses, gradient, states = losses * factors, gradient * factors, states * factors
            total += losses.sum()
            grad_hidden[start:stop] = gradient
            grad_items.addmm_(logits.T, states / mass).index_add_(0, target, states, alpha=-1)
        number = len(hidden)
        ctx.gradients = grad_hidden / number, grad_items / number, None if grad_values is None else grad_values / number
        return total / number

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, items, values = (None if g is None else g * grads[0] for g in ctx.gradients)
        return hidden, items, None, None, None, None, None, values
