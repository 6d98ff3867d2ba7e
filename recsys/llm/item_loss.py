"""The language model's loss where an item takes one position: of what it writes, and of the item as a whole.

The state before an item predicts the whole item. Its codes are written from the same state: a branch adds to it what
the codes before change, so that it need not be found again behind every code.
The softmax over all items is the better ranking of the two, so that the codes learn from it besides (Hinton et al.,
"Distilling the knowledge in a neural network", arXiv 1503.02531): of an item's codes, each also predicts the
distribution that the items' probabilities give it behind the codes before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.llm.attention import Branches, branch_masks
from recsys.llm.heads import LanguageModelLoss, Losses, code_embeddings, head_rows
from recsys.llm.item_rows import ItemBatch
from recsys.llm.items import ItemTable
from recsys.llm.vocabulary import TokenLayout
from recsys.training.softmax import CHUNK_ROWS, Terms, softmax_loss


class ItemLossWeights(NamedTuple):
    """`item`: of the whole items' cross-entropy beside the mean of the written tokens'.

    `distillation`: share of the items' own distribution in what codes learn, 0 to 1.
    """

    item: float = 1.0
    distillation: float = 0.0


class ItemLosses(NamedTuple):
    """In nats: of written tokens; the mean of whole items; the sum of codes against the items' distribution."""

    written: Losses
    item: Tensor
    distilled: Tensor
    weights: ItemLossWeights

    def mean(self) -> Tensor:
        share = self.weights.distillation
        code = (1 - share) * self.written.code + share * self.distilled
        return self.written._replace(code=code).mean() + self.weights.item * self.item

    def parts(self) -> Mapping[str, Tensor]:
        return {"loss": self.mean(), "written_loss": self.written.mean(), "item_loss": self.item}

    @property
    def num_examples(self) -> int:
        return self.written.num_examples


class ItemLoss(nn.Module):
    """Losses of an `ItemBatch`; `model` is a causal LM, plain or wrapped by peft."""

    def __init__(self, model: Any, layout: TokenLayout, items: ItemTable, weights: ItemLossWeights) -> None:
        super().__init__()
        self.written = LanguageModelLoss(model, layout)
        self.items = items
        self._weights = weights

    def forward(self, *tensors: Any) -> ItemLosses:
        """See `ItemBatch`."""
        batch, model, layout = ItemBatch(*tensors), self.written.unwrapped(), self.written.layout
        vectors = self.items.vectors(code_embeddings(model, layout))
        hidden = self.written.decoder()(
            inputs_embeds=self.items.embed(batch.tokens, model, layout, vectors),
            attention_mask=branch_masks(model, Branches(batch.positions, batch.reach, batch.branch)),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        states = hidden[batch.rows, batch.columns]
        hidden = from_states(hidden, batch, states, layout.num_levels)
        losses = self.written.losses(hidden, batch.targets, batch.weights)
        if not len(batch.items):
            nothing = 0 * (vectors.sum() + self.items.repeats.sum())  # with gradients, for processes that wait for them
            return ItemLosses(losses, nothing, losses.code, self._weights)
        with torch.autocast(hidden.device.type, enabled=False):  # sums over the catalogue are made in fp32
            hidden, states, vectors = hidden.float(), states.float(), vectors.float()
            terms = Terms(batch.seen_by, batch.seen, batch.seen_ages, self.items.repeats)
            item = softmax_loss(states, vectors, batch.items, weights=batch.item_weights, terms=terms)
            distilled = losses.code
            if self._weights.distillation:
                distilled = self._distilled(hidden, batch, states.detach(), vectors.detach(), terms)
        return ItemLosses(losses, item, distilled, self._weights)

    def _distilled(self, hidden: Tensor, batch: ItemBatch, states: Tensor, vectors: Tensor, terms: Terms) -> Tensor:
        """Summed cross-entropy of all codes against what the items' probabilities make of them."""
        layout, codes = self.written.layout, self.items.codes
        rows = head_rows(self.written.unwrapped(), layout).codes
        distributions = code_distributions(states, vectors, terms, codes, batch.items, layout.num_codes)
        total = hidden.new_zeros((), dtype=torch.float32)
        for level, expected in enumerate(distributions):
            columns = batch.columns if level == 0 else batch.branches + level - 1
            own = rows[level * layout.num_codes : (level + 1) * layout.num_codes]
            losses = F.cross_entropy(hidden[batch.rows, columns] @ own.T, expected, reduction="none")
            total = total + (losses if batch.weights is None else losses * batch.weights[batch.rows, columns]).sum()
        return total


def from_states(hidden: Tensor, batch: ItemBatch, states: Tensor, num_levels: int) -> Tensor:
    """Hidden states [B, T, d] with the `states` [P, d] before the items added along the branches that write them.

    See `recsys.decoding.tree.Tree`, which decodes so.
    """
    depth = num_levels - 1
    columns = batch.branches[:, None] + torch.arange(depth, device=hidden.device)
    rows = batch.rows[:, None].expand_as(columns)
    return hidden.index_put((rows, columns), states[:, None].expand(-1, depth, -1), accumulate=True)


@torch.no_grad()
def code_distributions(
    states: Tensor, vectors: Tensor, terms: Terms, codes: Tensor, items: Tensor, num_codes: int
) -> list[Tensor]:
    """For each level the probabilities [P, K] of its codes, among items with the codes before of `items` [P].

    Args:
        states: [P, d] before the items; with `vectors` [N, d] and `terms` the softmax over the catalogue.
        codes: [N, L], those of level l from l * K on.
    """
    levels = codes.shape[1]
    found = [states.new_zeros(len(states), num_codes) for _ in range(levels)]
    for start in range(0, len(states), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(states))
        logits = states[start:stop] @ vectors.T
        first, last = torch.searchsorted(terms.rows, torch.tensor([start, stop], device=states.device)).tolist()
        here = slice(first, last)
        logits[terms.rows[here] - start, terms.items[here]] += terms.values[terms.groups[here]]
        left = logits.softmax(1)
        own = codes[items[start:stop]]
        for level in range(levels):
            distribution = found[level][start:stop].index_add_(1, codes[:, level] - level * num_codes, left)
            # Far from the item all probabilities may be 0 in float32; its own code is what is then left to learn.
            code = own[:, level, None] - level * num_codes
            distribution.scatter_add_(1, code, distribution.new_full(code.shape, torch.finfo(left.dtype).tiny))
            distribution /= distribution.sum(1, keepdim=True)
            left = left * (codes[:, level] == own[:, level, None])
    return found
