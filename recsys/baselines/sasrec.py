"""SASRec: causal self-attention over a history, items scored by their own (tied) embeddings.

Kang & McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), section III. `Sasrec` is what training in
`sasrec_training` gives; it reads and writes a folder of `sasrec.safetensors` and `sasrec.json`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recsys.baselines.base import ScoringModel
from recsys.baselines.config import SasrecConfig
from recsys.tables import FloatArray, Histories, IntArray
from recsys.training.modules import Kind, Saved, load_module, save_module
from recsys.training.plan import Progress

_KIND = Kind("sasrec", SasrecConfig, "embed")


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each normalised before and added to its input."""

    def __init__(self, config: SasrecConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_heads, config.dropout
        self.norm_attention = nn.LayerNorm(config.hidden_size)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm_forward = nn.LayerNorm(config.hidden_size)
        self.expand = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.shrink = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._drop(self._attend(self.norm_attention(x)))
        return x + self._drop(self.shrink(self._drop(F.gelu(self.expand(self.norm_forward(x))))))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        output: torch.Tensor = self.output(attended.transpose(1, 2).reshape(batch, length, dim))
        return output

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)


class SasrecModel(nn.Module):
    """Histories [B, T] of item indices -> hidden states [B, T, D], which score items by `items.weight` [N, D].

    Histories start at position 0 and may be padded at their end with any index: attention is causal, so nothing before
    the padding sees it.
    """

    def __init__(self, num_items: int, config: SasrecConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.items = nn.Embedding(num_items, config.hidden_size)
        self.positions = nn.Embedding(config.max_length, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        x = self.items(items) * self.items.embedding_dim**0.5 + self.positions.weight[: items.shape[1]]
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        hidden: torch.Tensor = self.norm(x)
        return hidden


@dataclass(frozen=True, repr=False)
class Sasrec(ScoringModel):
    """A trained SASRec: `model` ranks (the best epoch on validation), `vectors` are of a fixed one."""

    config: SasrecConfig
    model: SasrecModel
    vectors: FloatArray  # [N, D], after `config.vector_epochs`; nothing that validation chooses reaches them
    counts: FloatArray  # [N] interactions of each item in training, the ranking of empty histories
    progress: Progress | None = None  # how its training ended; None once loaded

    def __repr__(self) -> str:
        return f"<Sasrec ({self.vectors.shape[0]} items x {self.vectors.shape[1]}, {self.config.num_layers} layers)>"

    def with_proxies(self, proxies: IntArray) -> Sasrec:
        """A copy in which each item has the vector of its proxy [N]: an item index, or -1 for the mean of all.

        Items of the training set are their own proxies; cold-start items have learnt only as negatives. Counts stay, so
        that empty histories still get the most popular items.
        """
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            weight = model.items.weight
            weight.copy_(torch.from_numpy(_proxy_vectors(weight.detach().cpu().numpy(), proxies)))
        return replace(self, model=model, vectors=_proxy_vectors(self.vectors, proxies))

    @property
    def num_items(self) -> int:
        return len(self.counts)

    @torch.inference_mode()
    def scores(self, batch: Histories) -> FloatArray:
        """Logits of all items after each history; an empty history gets the logarithms of their counts."""
        self.model.eval()
        device = self.model.items.weight.device
        recent = batch.last(self.config.max_length)
        lengths = recent.lengths
        mask = np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]
        padded = np.zeros(mask.shape, dtype=np.int64)
        padded[mask] = recent.items
        hidden = self.model(torch.from_numpy(padded).to(device))
        last = hidden[torch.arange(len(batch)), torch.from_numpy(np.maximum(lengths, 1) - 1)]
        scores: FloatArray = (last @ self.model.items.weight.T).cpu().numpy()
        scores[lengths == 0] = np.log1p(self.counts)  # on the scale of the other scores, which are logarithms
        return scores

    def save(self, folder: Path) -> None:
        """Write the model into `folder`, which is created."""
        arrays = {"vectors": torch.from_numpy(self.vectors), "counts": torch.from_numpy(self.counts)}
        save_module(folder, _KIND, self.model, Saved(self.config, tensors=arrays))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: a file is missing, unreadable, or does not fit the other.
        """
        model, saved = load_module(folder, _KIND, lambda s: SasrecModel(len(s.tensors["counts"]), s.config))
        return cls(saved.config, model, saved.tensors["vectors"].numpy(), saved.tensors["counts"].numpy())


def _proxy_vectors(vectors: FloatArray, proxies: IntArray) -> FloatArray:
    out: FloatArray = vectors[proxies]
    out[proxies < 0] = vectors[proxies == np.arange(len(proxies))].mean(axis=0)
    return out
