"""Items as the language model reads and scores them: one vector an item, of content and of what was learned of it.

The content of an item is the sum of a row of each level's table at its codes, so that an item of a later catalogue has
a vector too; the rest is a row of its own, which it keeps from training. What the model reads in a prompt is what a
softmax over the catalogue scores (COBRA, arXiv 2503.02453; LIGER, arXiv 2411.18814, combine codes with item vectors).
Reads and writes `items.safetensors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import ArtifactError
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import BoolArray, FloatArray, Histories, IntArray, SemanticIds

_FILE = "items.safetensors"
_SCALE_TOKENS = 4096  # token_ids whose embeddings give the spread
AGES = 8  # how long ago an item of the history was chosen: 1, 2, 3-4, 5-8, ..., 65 or more items


class ItemTable(nn.Module):
    """A vector of every item, and what a softmax over the catalogue adds to items of the history.

    Args:
        codes: [N, L] of the catalogue.
        tables: [L * K, d], the rows that content starts from.
        known: bool [N], which items have a row of their own: those that training predicts. Others would learn only
            that they are never chosen.
        dropped: probability that a training step reads and scores an item by its content alone.
    """

    codes: Tensor
    known: Tensor

    def __init__(self, codes: IntArray, tables: FloatArray, known: BoolArray, *, dropped: float = 0.0) -> None:
        super().__init__()
        levels = codes.shape[1]
        offsets = np.arange(levels) * (len(tables) // levels)
        self.register_buffer("codes", torch.from_numpy(codes + offsets).long())
        self.register_buffer("known", torch.from_numpy(known).float()[:, None])
        self.tables = nn.Parameter(torch.from_numpy(tables).float().clone())
        self.rows = nn.Parameter(torch.zeros(len(codes), tables.shape[1]))
        self.repeats = nn.Parameter(torch.zeros(AGES))
        self.reading = nn.Identity()  # where dropout of what is read is hooked
        self._dropped = dropped

    @classmethod
    def for_model(
        cls, model: Any, semantic_ids: SemanticIds, starts: FloatArray, known: BoolArray, *, dropped: float
    ) -> Self:
        """Untrained, its tables in proportion to `starts` [L * K, d] and of the spread of what the model reads."""
        embedding = model.get_input_embeddings()
        ids = torch.arange(min(len(embedding.weight), _SCALE_TOKENS), device=embedding.weight.device)
        with torch.no_grad():
            spread = float(embedding(ids).float().std())  # some models scale what they look up
        centred = starts - starts.mean(0)
        tables = centred / max(float(centred.std()), 1e-8) * spread
        return cls(semantic_ids.codes, tables, known, dropped=dropped)

    def __len__(self) -> int:
        return len(self.codes)

    def vectors(self) -> Tensor:
        """[N, d]; in training some without their own rows, others at every call."""
        rows: Tensor = self.rows * self.known
        if self.training and self._dropped:
            kept = torch.rand(len(rows), 1, device=rows.device) >= self._dropped
            rows = rows * kept
        return F.embedding_bag(self.codes, self.tables, mode="sum") + rows

    def embed(self, token_ids: Tensor, model: Any, layout: TokenLayout, vectors: Tensor | None = None) -> Tensor:
        """token_ids [B, T], items among them, -> what the model reads, [B, T, d].

        Args:
            vectors: of all items, where they are known.
        """
        is_item = token_ids >= layout.size
        embedded: Tensor = model.get_input_embeddings()(token_ids.masked_fill(is_item, 0))
        vectors = self.vectors() if vectors is None else vectors
        read = self.reading(vectors[token_ids[is_item] - layout.size])
        return embedded.index_put((is_item,), read.to(embedded.dtype))

    def scores(self, states: Tensor, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        """Logits [B, N] of all items, given the state [B, d] behind each history.

        Args:
            vectors: of all items, where they are known.
        """
        logits = states @ (self.vectors() if vectors is None else vectors).T
        rows = np.repeat(np.arange(len(histories)), histories.lengths)
        distances = histories.indptr[rows + 1] - np.arange(len(rows))
        # Of equal items the one chosen last, which comes first in the reversed order.
        _, last = np.unique((rows * len(self) + histories.items)[::-1], return_index=True)
        row, item, distance = (torch.from_numpy(a[::-1][last]) for a in (rows, histories.items, distances))
        logits[row, item] += self.repeats[ages(distance).to(states.device)]
        return logits

    def over(self, semantic_ids: SemanticIds) -> ItemTable:
        """The same items and those that were added behind them, which have no rows of their own.

        Shares its weights where nothing was added.
        """
        codes = semantic_ids.codes
        if len(codes) == len(self):
            return self
        known = np.append(self.known[:, 0].cpu().numpy(), np.zeros(len(codes) - len(self))) > 0
        grown = ItemTable(codes, self.tables.detach().cpu().numpy(), known)
        with torch.no_grad():
            grown.rows[: len(self)] = self.rows
            grown.repeats.copy_(self.repeats)
        return grown.to(self.rows.device).eval()

    def save(self, folder: Path) -> None:
        """Write `items.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, _path(folder)
        )

    @classmethod
    def load(cls, folder: Path) -> ItemTable | None:
        """What `save` wrote; None where there is none.

        Raises:
            ArtifactError: the file is damaged.
        """
        if not _path(folder).exists():
            return None
        try:
            # Copied, because products of tensors that are not aligned in memory are rounded differently.
            tensors = {name: tensor.clone() for name, tensor in load_file(_path(folder)).items()}
            codes = tensors["codes"].numpy() * 0
            table = cls(codes, tensors["tables"].numpy(), np.zeros(len(codes), np.bool_))
            table.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ArtifactError(f"{_path(folder)} cannot be read ({error}); run `finetune` again") from error
        return table.eval()


def _path(folder: Path) -> Path:
    return folder / _FILE


def ages(distance: Tensor) -> Tensor:
    """The group, 0..AGES-1, of items that were chosen `distance` >= 1 items ago; each is twice as wide as the last."""
    return torch.ceil(torch.log2(distance.float())).long().clamp(max=AGES - 1)
