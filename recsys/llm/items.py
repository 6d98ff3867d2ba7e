"""Items as the language model reads and scores them: one vector an item, of content and of what was learned of it.

The content of an item is the sum of the embeddings of its codes, the very rows that the model reads and writes codes
by, so that an item of a later catalogue has a vector too; the rest is a row of its own, which it keeps from training.
What the model reads in a prompt is what a softmax over the catalogue scores (COBRA, arXiv 2503.02453; LIGER, arXiv
2411.18814, combine codes with item vectors).
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
from recsys.llm.prefixes import PrefixRows, PrefixTree
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import BoolArray, Histories, IntArray, SemanticIds

_FILE = "items.safetensors"
AGES = 8  # how long ago an item of the history was chosen: 1, 2, 3-4, 5-8, ..., 65 or more items


class ItemTable(nn.Module):
    """A vector of every item, and what a softmax over the catalogue adds to items of the history.

    Args:
        codes: [N, L] of the catalogue, those of level l from l * K on.
        width: d of the vectors.
        known: bool [N], which items have a row of their own: those that training predicts. Others would learn only
            that they are never chosen.
        dropped: probability that a training step reads and scores an item by its content alone.
    """

    codes: Tensor
    known: Tensor

    def __init__(self, codes: IntArray, width: int, known: BoolArray, *, dropped: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(codes).long())
        self.register_buffer("known", torch.from_numpy(known).float()[:, None])
        self.rows = nn.Parameter(torch.zeros(len(known), width))
        self.repeats = nn.Parameter(torch.zeros(AGES))
        self.reading = nn.Identity()  # where dropout of what is read is hooked
        self._dropped = dropped
        self._tree: PrefixTree | None = None  # made when it is first needed
        self._grown: tuple[SemanticIds, ItemTable] | None = None  # the last, which several rankers ask for

    @classmethod
    def of(cls, semantic_ids: SemanticIds, width: int, known: BoolArray, *, dropped: float = 0.0) -> Self:
        """Untrained."""
        offsets = np.arange(semantic_ids.num_levels) * semantic_ids.num_codes
        return cls(semantic_ids.codes + offsets, width, known, dropped=dropped)

    def __len__(self) -> int:
        return len(self.codes)

    def vectors(self, code_rows: Tensor) -> Tensor:
        """[N, d]; in training some without their own rows, others at every call.

        Args:
            code_rows: [L * K, d], see `recsys.llm.heads.code_embeddings`.
        """
        rows: Tensor = self.rows * self.known
        if self.training and self._dropped:
            kept = torch.rand(len(rows), 1, device=rows.device) >= self._dropped
            rows = rows * kept
        return F.embedding_bag(self.codes, code_rows, mode="sum") + rows

    def prefixes(self, code_rows: Tensor, vectors: Tensor) -> PrefixRows:
        """What codes are written by behind others, given the items' `vectors` [N, d]; see `vectors`."""
        if self._tree is None or self._tree.known.device != self.known.device:
            size = len(code_rows) // self.codes.shape[1]
            with torch.inference_mode(False):  # it is kept, for trainings too
                self._tree = PrefixTree(self.codes, size, self.known[:, 0])
        return PrefixRows.of(self._tree, vectors, code_rows)

    def embed(self, token_ids: Tensor, model: Any, layout: TokenLayout, vectors: Tensor) -> Tensor:
        """token_ids [B, T], items among them, -> what the model reads, [B, T, d], given the `vectors` [N, d]."""
        is_item = token_ids >= layout.size
        embedded: Tensor = model.get_input_embeddings()(token_ids.masked_fill(is_item, 0))
        read = self.reading(vectors[token_ids[is_item] - layout.size])
        return embedded.index_put((is_item,), read.to(embedded.dtype))

    def scores(self, states: Tensor, histories: Histories, vectors: Tensor) -> Tensor:
        """Logits [B, N] of all items with the `vectors` [N, d], given the state [B, d] behind each history."""
        logits = states @ vectors.T
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
        added = len(semantic_ids) - len(self)
        if not added:
            return self
        if self._grown is None or self._grown[0] is not semantic_ids:
            self._grown = semantic_ids, self._over(semantic_ids, added)
        return self._grown[1]

    def _over(self, semantic_ids: SemanticIds, added: int) -> ItemTable:
        known = np.append(self.known[:, 0].cpu().numpy(), np.zeros(added)) > 0
        grown = ItemTable.of(semantic_ids, self.rows.shape[1], known)
        with torch.no_grad():
            grown.rows[: len(self)] = self.rows
            grown.repeats.copy_(self.repeats)
        return grown.to(self.rows.device).eval()

    def continued(self, known: BoolArray, *, dropped: float) -> Self:
        """A copy to train on, in which `known` items have rows of their own, besides those that have one here."""
        both = known | (self.known[:, 0].cpu().numpy() > 0)
        copied = type(self)(self.codes.cpu().numpy(), self.rows.shape[1], both, dropped=dropped)
        with torch.no_grad():
            copied.rows.copy_(self.rows)  # 0 where it was not known
            copied.repeats.copy_(self.repeats)
        return copied.eval()

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
            known = tensors["known"][:, 0].numpy() > 0
            table = cls(tensors["codes"].numpy(), tensors["rows"].shape[1], known)
            table.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ArtifactError(f"{_path(folder)} cannot be read ({error}); run `finetune` again") from error
        return table.eval()


def _path(folder: Path) -> Path:
    return folder / _FILE


def ages(distance: Tensor) -> Tensor:
    """The group, 0..AGES-1, of items that were chosen `distance` >= 1 items ago; each is twice as wide as the last."""
    return torch.ceil(torch.log2(distance.float())).long().clamp(max=AGES - 1)
