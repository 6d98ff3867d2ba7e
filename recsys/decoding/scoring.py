"""The log-probability of a given item after any prompts, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recsys.decoding.tree import Tree
from recsys.llm.collation import padded
from recsys.llm.reading import ItemReader


@torch.inference_mode()
def item_log_probabilities(
    model: Any,
    prompts: Sequence[Sequence[int]],
    token_ids: Sequence[int],
    *,
    base: int,
    num_codes: int,
    reader: ItemReader | None = None,
) -> list[float]:
    """The log-probability of one item after each prompt, as a search gives it.

    Args:
        prompts: non-empty lists of token_ids, read together.
        token_ids: of the item's codes [L].

    Raises:
        ModelError: the model is in training mode.
    """
    device = model.device
    tree = Tree(model, padded(prompts).to(device), torch.tensor([len(p) for p in prompts]).to(device), reader=reader)
    hidden, total = tree.root, torch.zeros(len(prompts), device=device)
    column = torch.zeros(len(prompts), 1, dtype=torch.int64, device=device)
    for level, token_id in enumerate(token_ids):
        if level:
            hidden = tree.grow(column + token_ids[level - 1], column)
        first = base + level * num_codes
        total += tree.logits(hidden, first, num_codes).log_softmax(-1)[:, 0, token_id - first]
    found: list[float] = total.tolist()
    return found
