"""Prompts of continuous tokens: an item is its latents between `<item>` and `</item>`, `<pref>` asks for a preference.

(ContRec, arXiv 2504.12007, section 3.) Like codes, these tokens enter prompts as ids only: they lie beyond the language
model's vocabulary, so no text can tokenize into one of them. Reads histories and texts; makes token_ids, which
`recsys.llm.connector` embeds.

By default `<pref>` comes before any text answer, and a training row predicts every item of a history in one pass:
behind the trunk of all items stands one `<pref>` a prefix, each seeing its own prefix alone, at the position it would
have there. The words of the last item follow the last `<pref>` as the language model's task; no `<pref>` sees them.
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
from recsys.llm.collation import IGNORED, pad, random_buckets
from recsys.llm.conditions import SequentialRow, places
from recsys.llm.storage import LanguageModel
from recsys.tables import IntArray


@dataclass(frozen=True)
class ContinuousLayout:
    """Ids of the continuous prompt's own tokens, from `base` on: three special ones, then latent k of item i."""

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
    """The catalogue's words, in its order; an item without any has "".

    titles: written before an item's latents; none writes latents alone.
    answers: what the language model is to say about the next item, such as its title or category; none asks nothing.
    """

    titles: Sequence[str] | None = None
    answers: Sequence[str] | None = None


class ContinuousRow(NamedTuple):
    """One training row: token_ids with their places in the tree, and what is asked where."""

    tokens: list[int]
    positions: list[int]
    reach: list[int]
    branch: list[int]
    targets: list[int]
    columns: IntArray  # [n] where the `<pref>`s stand
    items: IntArray  # [n] what follows each prefix


class TextFirstRow(NamedTuple):
    """One training row of the other order: a trunk of `length` tokens, and the true answer behind it."""

    tokens: list[int]
    targets: list[int]
    length: int
    item: int


class ContinuousBatch(NamedTuple):
    tokens: Tensor  # [B, T]
    positions: Tensor  # [B, T], see `Branches`, as the next two
    reach: Tensor
    branch: Tensor
    targets: Tensor  # [B, T] next token_id, IGNORED where nothing is asked
    rows: Tensor  # [P] where the conditions are
    columns: Tensor  # [P]
    items: Tensor  # [P] what follows each
    code_tokens: Tensor  # [B, C] the same histories under the sequential task
    code_targets: Tensor  # [B, C]


class TextFirstBatch(NamedTuple):
    tokens: Tensor  # [B, T] the trunk and the true answer
    targets: Tensor  # [B, T]
    lengths: Tensor  # [B] of the trunks
    items: Tensor  # [B] what follows each
    code_tokens: Tensor  # [B, C]
    code_targets: Tensor  # [B, C]


class ContinuousPrompts:
    """Turns histories into token_ids of continuous prompts."""

    def __init__(self, language_model: LanguageModel, layout: ContinuousLayout, texts: ContinuousTexts) -> None:
        self.layout = layout
        self._tokenizer, config = language_model.tokenizer, language_model.config
        self._max_text, self._max_tokens = config.max_text_tokens, config.max_tokens
        bos = getattr(self._tokenizer, "bos_token_id", None)
        opening = load_templates()["sequential"][0].prompt
        self._start = [] if bos is None else [int(bos)]
        for _, words in opening:
            self._start += encode_text(self._tokenizer, words)
        self.texts = texts
        self._titles: dict[int, list[int]] = {}

    def query(self, history: IntArray) -> list[int]:
        """The prompt behind which `<pref>` is asked."""
        return self._trunk(history)[0]

    def _trunk(self, items: IntArray) -> tuple[list[int], list[int]]:
        """The tokens of a history and, for 0..n of its items, how many of them are its prefix.

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

    def row(self, items: IntArray) -> ContinuousRow:
        """The training row of a sequence [n]: conditions before every item, and the words of the last."""
        answer = self.answer(int(items[-1]))
        trunk, ends = self._trunk(items[:-1])
        asked, size = answer[:-1], len(trunk)
        last = size + len(ends) - 1  # column of the last <pref>
        return ContinuousRow(
            tokens=trunk + [self.layout.preference] * len(ends) + asked,
            positions=[*range(size), *ends, *range(size + 1, size + 1 + len(asked))],
            reach=[*range(1, size + 1), *ends, *[size] * len(asked)],
            branch=[*[0] * size, *range(1, len(ends) + 1), *[len(ends)] * len(asked)],
            targets=[IGNORED] * last + (answer or [IGNORED]),
            columns=np.arange(size, last + 1),
            items=items[-len(ends) :],
        )

    def text_first(self, items: IntArray) -> TextFirstRow:
        """The training row of a sequence [n] whose last item is to be said and preferred."""
        answer, trunk = self.answer(int(items[-1])), self.query(items[:-1])
        targets = [IGNORED] * (len(trunk) - 1) + (answer or [IGNORED])
        return TextFirstRow(trunk + answer[:-1], targets, len(trunk), int(items[-1]))

    def answer(self, item: int) -> list[int]:
        """What to say about an item, ended; empty where there is nothing."""
        words = "" if self.texts.answers is None else self.texts.answers[item]
        end = [int(self._tokenizer.eos_token_id)]
        return encode_text(self._tokenizer, words)[: self._max_text] + end if words else []

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
    return [pad_tree([rows[i] for i in group], [codes[i] for i in group]) for group in groups]


def pad_tree(rows: Sequence[ContinuousRow], codes: Sequence[SequentialRow]) -> ContinuousBatch:
    """Right-padded rows."""
    return ContinuousBatch(
        _filled([r.tokens for r in rows], 0),
        _filled([r.positions for r in rows], 0),
        _filled([r.reach for r in rows], 0),
        _filled([r.branch for r in rows], PADDING),
        _filled([r.targets for r in rows], IGNORED),
        *places([r.columns for r in rows], [r.items for r in rows]),
        *pad([c.row for c in codes]),
    )


def text_first_batches(
    prompts: ContinuousPrompts,
    sequences: Sequence[IntArray],
    codes: Sequence[SequentialRow],
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
) -> list[TextFirstBatch]:
    """All batches of one epoch: of each sequence one item, chosen by (seed, epoch), from those before it."""
    generator = np.random.default_rng([seed, epoch])
    rows = [prompts.text_first(items[: int(generator.integers(len(items))) + 1]) for items in sequences]
    groups = random_buckets([len(row.tokens) for row in rows], batch_tokens, generator)
    return [_pad_text_first([rows[i] for i in group], [codes[i] for i in group]) for group in groups]


def _pad_text_first(rows: Sequence[TextFirstRow], codes: Sequence[SequentialRow]) -> TextFirstBatch:
    return TextFirstBatch(
        _filled([r.tokens for r in rows], 0),
        _filled([r.targets for r in rows], IGNORED),
        torch.tensor([r.length for r in rows]),
        torch.tensor([r.item for r in rows]),
        *pad([c.row for c in codes]),
    )


def _filled(parts: Sequence[list[int]], value: int) -> Tensor:
    """Lists as one tensor [B, T], the shorter ones ended by `value`."""
    longest = max(len(part) for part in parts)
    return torch.tensor([part + [value] * (longest - len(part)) for part in parts])
