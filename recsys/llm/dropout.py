"""Residual dropout for backbones whose architecture has none (Qwen3 and its like), by forward hooks.

Small catalogues overfit long before a small model is trained; the hooks act in training mode only and are not saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK_OUTPUTS = ("o_proj", "down_proj")


@contextmanager
def residual_dropout(model: Any, probability: float, *others: nn.Module) -> Iterator[None]:
    """Drop entries of the embeddings, of every block's two outputs and of what `others` give, in training.

    With a peft model, the hooks are on its wrappers: they see the adapter's branch too, and peft computes embeddings
    without calling the wrapped module.
    """

    def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return F.dropout(output, probability, training=module.training)

    outputs = [module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in _BLOCK_OUTPUTS]
    handles = [module.register_forward_hook(drop) for module in (model.get_input_embeddings(), *outputs, *others)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
