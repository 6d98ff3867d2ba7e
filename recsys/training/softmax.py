"""Full-softmax cross-entropy over a catalogue in bounded memory."""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ROWS = 128  # rows whose logits are in memory at once; small enough to stay near the cache


class SoftmaxLoss(torch.autograd.Function):
    """Mean cross-entropy of hidden [P, D] against all items [N, D], holding `CHUNK_ROWS` x N logits at a time.

    With `weights` [P] each row's cross-entropy is multiplied by its own; the sum is still divided by P.
    Gradients are computed in the forward pass, while the probabilities are there, so no logit is kept or recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        buffer = torch.empty(CHUNK_ROWS, len(weight), dtype=hidden.dtype, device=hidden.device)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), CHUNK_ROWS):
            rows, target = hidden[start : start + CHUNK_ROWS], targets[start : start + CHUNK_ROWS]
            logits = torch.mm(rows, weight.T, out=buffer[: len(rows)])
            peak = logits.amax(dim=1, keepdim=True)
            score = logits.gather(1, target[:, None]) - peak
            mass = logits.sub_(peak).exp_().sum(dim=1, keepdim=True)
            losses, gradient = mass.log() - score, logits @ weight / mass - weight[target]
            if weights is not None:
                factors = weights[start : start + CHUNK_ROWS, None]
                losses, gradient, rows = losses * factors, gradient * factors, rows * factors
            total += losses.sum()
            grad_hidden[start : start + CHUNK_ROWS] = gradient
            grad_weight.addmm_(logits.T, rows / mass).index_add_(0, target, rows, alpha=-1)
        ctx.save_for_backward(grad_hidden / len(hidden), grad_weight / len(hidden))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None
