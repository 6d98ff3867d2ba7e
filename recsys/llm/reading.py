"""How a model reads prompts in which an item is one token, and what it writes the codes of items by."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recsys.llm.heads import code_embeddings
from recsys.llm.items import ItemTable
from recsys.llm.prefixes import PrefixRows
from recsys.llm.vocabulary import TokenLayout


class ItemReader:
    """Of a model in evaluation mode; the vectors of all items are computed once."""

    @torch.no_grad()
    def __init__(self, model: Any, layout: TokenLayout, items: ItemTable) -> None:
        self._model, self._items, self.layout = model, items, layout
        self._rows = code_embeddings(model, layout)
        self.vectors = items.vectors(self._rows)  # [N, d]

    @cached_property
    def prefixes(self) -> PrefixRows:
        """Made when the first code is written: what only reads, or scores whole items, needs none."""
        with torch.no_grad():
            return self._items.prefixes(self._rows, self.vectors)

    def __call__(self, token_ids: Tensor) -> Tensor:
        """token_ids [B, T] of a prompt -> what the model reads [B, T, d]."""
        return self._items.embed(token_ids, self._model, self.layout, self.vectors)
