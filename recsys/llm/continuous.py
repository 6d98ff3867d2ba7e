"""Prompts of continuous tokens: an item is its latents between `<item>` and `</item>`, `<pref>` follows the history.

(ContRec, arXiv 2504.12007, section 3.) Like codes, these tokens enter prompts as ids only: they lie beyond the language
model's vocabulary, so no text can tokenize into one of them. Reads histories and texts; gives token_ids, which
`recsys.llm.connector` embeds.

A training row predicts every item of a history in one pass: after the trunk of all items comes one `<pref>` a prefix,
each attending to its own prefix alone, at the position it would have there. The text about the last item follows the
last `<pref>` as the language model's task; no `<pref>` attends to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.instructions.templates import load_templates
from recsys.llm.attention import PADDING
from recsys.llm.backbone import encode_text
from recsys.llm.collation import IGNORED, pad, padded, random_buckets
from recsys.llm.conditions import SequentialRow, concatenate_positions
from recsys.llm.storage import LanguageModel
from recsys.tables import FloatArray, IntArray


@dataclass(frozen=True)
class ContinuousLayout:
    """Token ids of continuous prompts, from `base` on: three special ones, then latent k of item i."""

    base: int  # the size of the language model's vocabulary
    num_latents: int

    @property
    def begin(self) -> int:
        return self.base

    @property
    def end(self) -> int:
        return self.base + 1

    @property
    def preference(self) -> int:
        return self.base + 2

    @property
    def first_latent(self) -> int:
        return self.base + 3

    def item(self, item: int) -> list[int]:
        """`<item>`, the item's K latents, `</item>`."""
        first = self.first_latent + item * self.num_latents
        return [self.begin, *range(first, first + self.num_latents), self.end]


class ContinuousTexts(NamedTuple):
    """The texts of all items, in catalogue order; an item without one has "".

    titles: written before an item's latents; None writes the latents alone.
    answers: what the language model learns to write about the next item, such as its category; None leaves it out.
    """

    titles: Sequence[str] | None = None
    answers: Sequence[str] | None = None


class ContinuousRow(NamedTuple):
    """One training row: token_ids, how they attend to each other (see `Branches`), and the targets."""

    tokens: list[int]
    positions: list[int]
    reach: list[int]
    branch: list[int]
    targets: list[int]
    columns: IntArray  # [n] of the `<pref>`s
    items: IntArray  # [n] the item after each prefix
    weights: FloatArray | None = None  # [n] of these items, 0 for what is no target; the last one's is the text's too


class ContinuousBatch(NamedTuple):
    tokens: Tensor  # [B, T]
    positions: Tensor  # [B, T], see `Branches`, as the next two
    reach: Tensor
    branch: Tensor
    targets: Tensor  # [B, T] next token_id, IGNORED where there is none to predict
    weights: Tensor | None  # float32 [B, 1] of the targets
    rows: Tensor  # [P] of the conditions, see `Positions`, as the next three
    columns: Tensor
    items: Tensor
    item_weights: Tensor | None
    code_tokens: Tensor  # [B, C] the same histories under the sequential task, see `recsys.llm.collation.Batch`
    code_targets: Tensor
    code_weights: Tensor | None


class ContinuousPrompts:
    """Turns histories into token_ids of continuous prompts."""

    def __init__(self, language_model: LanguageModel, layout: ContinuousLayout, texts: ContinuousTexts) -> None:
        self.layout, self.texts = layout, texts
        self._tokenizer, config = language_model.tokenizer, language_model.config
        self._max_text, self._max_tokens = config.max_text_tokens, config.max_tokens
        bos = getattr(self._tokenizer, "bos_token_id", None)
        self._start = [] if bos is None else [int(bos)]
        for _, text in load_templates()["sequential"][0].prompt:
            self._start += encode_text(self._tokenizer, text)
        self._titles: dict[int, list[int]] = {}

    def prompt(self, history: IntArray) -> list[int]:
        """The prompt of a history, which ends in `<pref>`."""
        return [*self._trunk(history)[0], self.layout.preference]

    def row(self, items: IntArray, weights: FloatArray | None = None) -> ContinuousRow:
        """The training row of a sequence [n]: a condition before every item, and the text about the last one.

        A last item of weight 0 is no target, and has no text.
        """
        answer = [] if weights is not None and weights[-1] == 0 else self.answer(int(items[-1]))
        trunk, ends = self._trunk(items[:-1])
        inputs, size = answer[:-1], len(trunk)
        last = size + len(ends) - 1  # column of the last <pref>
        return ContinuousRow(
            tokens=trunk + [self.layout.preference] * len(ends) + inputs,
            positions=[*range(size), *ends, *range(size + 1, size + 1 + len(inputs))],
            reach=[*range(1, size + 1), *ends, *[size] * len(inputs)],
            branch=[*[0] * size, *range(1, len(ends) + 1), *[len(ends)] * len(inputs)],
            targets=[IGNORED] * last + (answer or [IGNORED]),
            columns=np.arange(size, last + 1),
            items=items[-len(ends) :],
            weights=None if weights is None else weights[-len(ends) :],
        )

    def answer(self, item: int) -> list[int]:
        """The text about an item, with its end token; empty if it has none."""
        text = "" if self.texts.answers is None else self.texts.answers[item]
        end = [int(self._tokenizer.eos_token_id)]
        return encode_text(self._tokenizer, text)[: self._max_text] + end if text else []

    def _trunk(self, items: IntArray) -> tuple[list[int], list[int]]:
        """The tokens of a history and, for its first 0..n items, how many tokens they take.

        A history that leaves no room for `<pref>` and a text loses its oldest items.
        """
        segments = [self._title(item) + self.layout.item(item) for item in items.tolist()]
        over = len(self._start) + sum(map(len, segments)) + self._max_text + 2 - self._max_tokens
        while over > 0 and len(segments) > 1:
            over -= len(segments.pop(0))
        tokens, ends = list(self._start), [len(self._start)]
        for segment in segments:
            tokens += segment
            ends.append(len(tokens))
        return tokens, ends

    def _title(self, item: int) -> list[int]:
        if self.texts.titles is None:
            return []
        if item not in self._titles:
            self._titles[item] = encode_text(self._tokenizer, self.texts.titles[item])[: self._max_text]
        return self._titles[item]


def continuous_batches(
    rows: Sequence[ContinuousRow], codes: Sequence[SequentialRow], *, batch_tokens: int, seed: int, epoch: int
) -> list[ContinuousBatch]:
    """All batches of one epoch, in an order of (seed, epoch); row i and code row i are of one sequence."""
    generator = np.random.default_rng([seed, epoch])
    groups = random_buckets([len(r.tokens) for r in rows], batch_tokens, generator)
    return [collate([rows[i] for i in group], [codes[i] for i in group]) for group in groups]


def collate(rows: Sequence[ContinuousRow], codes: Sequence[SequentialRow]) -> ContinuousBatch:
    """Right-padded rows."""
    weighted = [r.weights for r in rows if r.weights is not None]
    return ContinuousBatch(
        padded([r.tokens for r in rows]),
        padded([r.positions for r in rows]),
        padded([r.reach for r in rows]),
        padded([r.branch for r in rows], PADDING),
        padded([r.targets for r in rows], IGNORED),
        torch.tensor([[weights[-1]] for weights in weighted]) if weighted else None,
        *concatenate_positions([r.columns for r in rows], [r.items for r in rows], weighted),
        *pad([c.row for c in codes]),
    )
