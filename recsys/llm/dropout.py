"""Residual dropout for backbones whose architecture has none (Qwen3 and its like), by forward hooks.

Small catalogues overfit long before a small model is trained; the hooks act in training mode only and are not saved.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK_OUTPUTS = ("o_proj", "down_proj")


def add_residual_dropout(model: Any, probability: float) -> None:
    """Drop entries of the embeddings and of every block's two outputs with `probability`, in training."""

    def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return F.dropout(output, probability, training=module.training)

    if probability == 0:
        return
    model.get_input_embeddings().register_forward_hook(drop)
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in _BLOCK_OUTPUTS:
            module.register_forward_hook(drop)
