"""The loss: at a code position cross-entropy over that level's K codes, at a text position over the whole vocabulary.

So the sliced log-softmax of constrained decoding is exactly what was trained, not an approximation of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.llm.vocabulary import TokenLayout


class Losses(NamedTuple):
    """Summed cross-entropies in nats and how many positions each sums over."""

    code: Tensor
    num_code: int
    text: Tensor
    num_text: int

    def mean(self) -> Tensor:
        """One mean over all supervised positions."""
        return (self.code + self.text) / max(self.num_code + self.num_text, 1)

    def parts(self) -> dict[str, Tensor]:
        return {"loss": self.mean()}

    @property
    def num_examples(self) -> int:
        return self.num_code + self.num_text

    def plus(self, other: Losses) -> Losses:
        """Those of two sets of rows as those of one."""
        return Losses(
            self.code + other.code,
            self.num_code + other.num_code,
            self.text + other.text,
            self.num_text + other.num_text,
        )


class HeadRows(NamedTuple):
    """The head's rows: text [base, d] and codes [L * K, d]."""

    text: Tensor
    codes: Tensor


def head_rows(model: Any, layout: TokenLayout) -> HeadRows:
    """The rows that gradients must reach, whether the model is plain or wrapped by peft.

    peft keeps trainable token rows apart; its wrapped `.weight` copies the whole matrix at every access, so the rows
    are taken from its adapter.
    """
    head = model.get_output_embeddings()
    adapter = getattr(head, "token_adapter", None) or getattr(model.get_input_embeddings(), "token_adapter", None)
    if adapter is None:
        return HeadRows(head.weight[: layout.base], head.weight[layout.base : layout.size])
    base = getattr(head, "original_module", head)
    return HeadRows(base.weight[: layout.base], adapter.trainable_tokens_delta["default"])


def code_embeddings(model: Any, layout: TokenLayout) -> Tensor:
    """[L * K, d], what the model reads at code tokens, with gradients whether it is plain or wrapped by peft."""
    embedding = model.get_input_embeddings()
    adapter = getattr(embedding, "token_adapter", None)
    own = getattr(embedding, "original_module", embedding)
    rows = own.weight[layout.base : layout.size] if adapter is None else adapter.trainable_tokens_delta["default"]
    scaled: Tensor = rows * getattr(own, "embed_scale", 1.0)  # some models scale what they look up
    return scaled


def head_logits(model: Any, states: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits [..., n], float32, of some rows [n, d] of the head, scaled and capped as the model does."""
    config = model.config
    logits = F.linear(states, rows.to(states.dtype), bias).float()
    logits = logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _cross_entropy(logits: Tensor, labels: Tensor, factors: Tensor | None) -> Tensor:
    """The sum of the cross-entropies of logits [n, V], each times its factor."""
    if factors is None:
        return F.cross_entropy(logits.float(), labels, reduction="sum")
    return (F.cross_entropy(logits.float(), labels, reduction="none") * factors).sum()


class LanguageModelLoss(nn.Module):
    """Hidden states and loss in one module."""

    def __init__(self, model: Any, layout: TokenLayout) -> None:
        super().__init__()
        self.model = model
        self.layout = layout

    def decoder(self) -> Any:
        """The stack of blocks below the head."""
        return self.unwrapped().base_model

    def forward(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> Losses:
        """Losses of right-padded rows.

        Args:
            tokens: token_ids [B, T]; padded on the right only, where no real position of a causal model looks.
            targets: [B, T], the token_id to predict at each position, -100 where nothing is predicted.
            weights: [B, T], the factor of each position's cross-entropy; None for 1.
        """
        return self.losses(self.decoder()(input_ids=tokens, use_cache=False).last_hidden_state, targets, weights)

    def losses(self, hidden: Tensor, targets: Tensor, weights: Tensor | None = None) -> Losses:
        """Losses of hidden states [B, T, d] against targets [B, T]; `weights` as in `forward`."""
        supervised = targets >= 0
        states, labels = hidden[supervised], targets[supervised]
        factors = None if weights is None else weights[supervised]
        rows = head_rows(self.unwrapped(), self.layout)
        code, num_code = self._code_loss(states, labels, factors, rows)
        is_text = labels < self.layout.base
        num_text = int(is_text.sum())
        text = states.new_zeros((), dtype=torch.float32)
        if num_text:
            logits = head_logits(self.unwrapped(), states[is_text], torch.cat([rows.text, rows.codes]))
            text = _cross_entropy(logits, labels[is_text], None if factors is None else factors[is_text])
        return Losses(code, num_code, text, num_text)

    def unwrapped(self) -> Any:
        """The causal LM without peft's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _code_loss(self, states: Tensor, labels: Tensor, factors: Tensor | None, rows: HeadRows) -> tuple[Tensor, int]:
        size = self.layout.num_codes
        level = torch.div(labels - self.layout.base, size, rounding_mode="floor")
        total, count = states.new_zeros((), dtype=torch.float32), 0
        for index in range(self.layout.num_levels):
            here = level == index
            if not bool(here.any()):
                continue
            logits = head_logits(self.unwrapped(), states[here], rows.codes[index * size : (index + 1) * size])
            target = labels[here] - self.layout.base - index * size
            total = total + _cross_entropy(logits, target, None if factors is None else factors[here])
            count += len(target)
        return total, count
