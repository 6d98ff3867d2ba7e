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
from recsys.llm.collation import IGNORED
from recsys.llm.heads import LanguageModelLoss, Losses, code_embeddings, head_logits, head_rows
from recsys.llm.item_rows import ItemBatch
from recsys.llm.items import ItemTable
from recsys.llm.prefixes import PrefixRows
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
        code_rows = code_embeddings(model, layout)
        vectors = self.items.vectors(code_rows)
        hidden = self.written.decoder()(
            inputs_embeds=self.items.embed(batch.tokens, model, layout, vectors),
            attention_mask=branch_masks(model, Branches(batch.positions, batch.reach, batch.branch)),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        codes = writing_states(hidden, batch, layout.num_levels)
        text = batch.targets.where(batch.targets < layout.base, IGNORED)
        losses = self.written.losses(hidden, text, batch.weights)
        if not len(batch.items):
            nothing = 0 * (vectors.sum() + self.items.repeats.sum())  # of everything that has gradients in other steps
            return ItemLosses(losses, nothing, losses.code, self._weights)
        with torch.autocast(hidden.device.type, enabled=False):  # sums over the catalogue are made in fp32
            states, vectors = codes[0].float(), vectors.float()
            terms = Terms(batch.seen_by, batch.seen, batch.seen_ages, self.items.repeats)
            item = softmax_loss(states, vectors, batch.items, weights=batch.item_weights, terms=terms)
            prefixes = self.items.prefixes(code_rows.float(), vectors)
            code, distilled = self._codes([state.float() for state in codes], batch, vectors, prefixes, terms)
        losses = losses._replace(code=code, num_code=len(batch.items) * layout.num_levels)
        return ItemLosses(losses, item, distilled, self._weights)

    def _codes(
        self, states: list[Tensor], batch: ItemBatch, vectors: Tensor, prefixes: PrefixRows, terms: Terms
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropies of all codes, against the items' own and against what the items' probabilities say."""
        layout, items = self.written.layout, batch.items
        model, size = self.written.unwrapped(), layout.num_codes
        rows = head_rows(model, layout).codes.float()
        expected: list[Tensor] = []
        if self._weights.distillation:
            detached = terms._replace(values=terms.values.detach())
            expected = code_distributions(states[0].detach(), vectors.detach(), detached, self.items.codes, items, size)
        code = distilled = states[0].new_zeros(())
        nodes = torch.zeros_like(items)
        for level, state in enumerate(states):
            own = head_logits(model, state, rows[level * size : (level + 1) * size])
            logits = prefixes.add(own, state, level, nodes)
            nodes = prefixes.tree.nodes[level][items]
            columns = batch.columns if level == 0 else batch.branches + level - 1
            factors = 1.0 if batch.weights is None else batch.weights[batch.rows, columns]
            targets = self.items.codes[items, level] - level * size
            code = code + (F.cross_entropy(logits, targets, reduction="none") * factors).sum()
            if expected:
                losses = F.cross_entropy(logits, expected[level], reduction="none")
                distilled = distilled + (losses * factors).sum()
        return code, distilled if expected else code


def writing_states(hidden: Tensor, batch: ItemBatch, num_levels: int) -> list[Tensor]:
    """The states [P, d] that each code of the items is written from; see `recsys.decoding.tree.Tree`."""
    first = hidden[batch.rows, batch.columns]
    return [first, *(first + hidden[batch.rows, batch.branches + depth] for depth in range(num_levels - 1))]


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
