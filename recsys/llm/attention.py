"""Which tokens of a row see which, where a row is no plain sequence: a trunk, and branches that grow on its prefixes.

The masks are additive floats, [B, 1, T, T], as `transformers` takes them from its caller; a bool mask would be added as
0 and 1 by eager attention.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

PADDING = -1


class Branches(NamedTuple):
    """How the tokens of right-padded rows hang together; all int64 [B, T]."""

    positions: Tensor  # the position_id of a token
    reach: Tensor  # a token sees the trunk's tokens before this column
    branch: Tensor  # 0 the trunk; a token also sees the earlier ones of its own branch; PADDING


def layer_windows(config: Any) -> dict[str, int | None]:
    """The attention window of every type of layer that a model has; None sees everything."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        types = ["full_attention" if window is None else "sliding_attention"]
    return {name: window if name == "sliding_attention" else None for name in types}


def branch_masks(model: Any, branches: Branches) -> Tensor | dict[str, Tensor]:
    """Additive masks [B, 1, T, T] of the model's type: one for all layers, or one a type of layer."""
    kind = branches.branch.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return additive_masks(_visible(branches), branches.positions, branches.positions, model.config, dtype)


def _visible(branches: Branches) -> Tensor:
    """bool [B, T, T]: whether the token of a row sees that of a column."""
    branch = branches.branch
    columns = torch.arange(branch.shape[1], device=branch.device)
    trunk = (branch == 0).unsqueeze(1) & (columns < branches.reach.unsqueeze(2))
    own = (branch.unsqueeze(2) == branch.unsqueeze(1)) & (branch != 0).unsqueeze(2)
    return trunk | (own & (columns <= columns.unsqueeze(1)))


def additive_masks(
    visible: Tensor, positions: Tensor, key_positions: Tensor, config: Any, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Additive masks [B, 1, T, keys] of bool [B, T, keys]: one for all layers of a model, or one per layer type."""
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    masks = {}
    for name, window in layer_windows(config).items():
        seen = visible
        if window is not None:
            seen = visible & (positions.unsqueeze(2) - key_positions.unsqueeze(1) < window)
        masks[name] = torch.where(seen, zero, torch.finfo(dtype).min).unsqueeze(1)
    return next(iter(masks.values())) if len(masks) == 1 else masks
