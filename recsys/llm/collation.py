"""Examples -> batches: templates are rendered here, codes enter as token_ids, rows are bucketed by length.

An epoch's batches depend on the seed and the epoch alone, so a resumed training sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.instructions.examples import Example
from recsys.instructions.templates import Part, Template, load_templates
from recsys.llm.backbone import encode_text
from recsys.llm.parts import WHOLE, Counts, RowForm, Split, part_weights, step_parts
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import IntArray, SemanticIds

IGNORED = -100
_TEXTS_KEPT = 200_000  # encoded, of which most are met again
_BUCKETS_AHEAD = 50  # batches that are sorted together: enough to pad little, few enough to stay random


class Row(NamedTuple):
    """One rendered example: token_ids, of which those from `answer` on are to be predicted.

    `weights` say how much each of these counts, 0 for not at all; None where all count alike.
    """

    tokens: list[int]
    answer: int
    weights: list[float] | None = None


class Batch(NamedTuple):
    tokens: Tensor  # [B, T] token_ids
    targets: Tensor  # [B, T] next token_id, IGNORED where nothing is predicted
    weights: Tensor | None = None  # float32 [B, T] of the targets


class Renderer:
    """Turns examples into token_ids.

    Args:
        tokenizer: the text tokenizer.
        layout: where the code tokens are.
        semantic_ids: in catalogue order.
        max_text_tokens: a text field keeps its first tokens.
        max_tokens: a longer row loses the oldest items, or titles, of its history.
        one_position: an item is one token, `layout.item(i)`, which an `ItemTable` embeds, and not its codes; the
            branches of `recsys.llm.item_rows` write those of the answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        layout: TokenLayout,
        semantic_ids: SemanticIds,
        *,
        max_text_tokens: int,
        max_tokens: int,
        one_position: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self.code_array: IntArray = layout.token_ids(semantic_ids.codes)
        self.code_tokens: list[list[int]] = self.code_array.tolist()
        self._read = (
            [[layout.item(item)] for item in range(len(self.code_tokens))] if one_position else self.code_tokens
        )
        self.first_item = layout.item(0) if one_position else None
        self.tokens_per_item = 1 if one_position else layout.num_levels
        self._max_text = max_text_tokens
        self._max_tokens = max_tokens
        self._texts: dict[str, list[int]] = {}
        bos = getattr(tokenizer, "bos_token_id", None)
        self._start = [] if bos is None else [int(bos)]
        self._end = [int(tokenizer.eos_token_id)]

    def prompt(self, history: Sequence[int] | IntArray, template: int = 0) -> list[int]:
        """The prompt of the sequential task: a prefix, then the items of the history, and nothing after them."""
        chosen = load_templates()["sequential"][template]
        return self._row(Example("sequential", history=tuple(history)), chosen).tokens

    def render(self, example: Example, template: int) -> Row:
        templates = load_templates()[example.task]
        return self._row(example, templates[template % len(templates)])

    def _row(self, example: Example, template: Template) -> Row:
        history = self._history(example)
        while True:
            prompt = self._start + self._parts(template.prompt, example, history)
            answer = self._parts(template.response, example, history)
            over = len(prompt) + len(answer) - self._max_tokens
            if over <= 0 or len(history) <= 1:
                break
            lost = np.cumsum([len(tokens) for tokens in history[:-2]])  # of the oldest, and of those up to each next
            history = history[int(np.searchsorted(lost, over)) + 1 :]
        ends_in_text = ("field", "text") in template.response
        weights = None
        if example.weights:  # of the sequential task, whose response is the history
            weights = np.repeat(example.weights[-len(history) :], self.tokens_per_item).tolist()
        return Row(prompt + answer + (self._end if ends_in_text else []), len(prompt), weights)

    def _history(self, example: Example) -> list[list[int]]:
        """The token_ids of each item of the history, or of each title, on a line of its own."""
        if example.titles:
            return [self._encode("\n") + self._encode(title)[: self._max_text] for title in example.titles]
        return [self._read[item] for item in example.history]

    def _parts(self, parts: tuple[Part, ...], example: Example, history: list[list[int]]) -> list[int]:
        tokens: list[int] = []
        for kind, value in parts:
            if kind == "text":
                tokens += self._encode(value)
            elif value == "text":
                tokens += self._encode(example.text)[: self._max_text]
            elif value in ("history", "titles"):
                tokens.extend(chain.from_iterable(history))
            elif example.item is not None:
                tokens += self._read[example.item]
        return tokens

    def _encode(self, text: str) -> list[int]:
        if text not in self._texts:
            if len(self._texts) >= _TEXTS_KEPT:
                self._texts.clear()
            self._texts[text] = encode_text(self._tokenizer, text)
        return self._texts[text]


def epoch_batches(
    examples: Mapping[str, Sequence[Example]],
    renderer: Renderer,
    weights: Mapping[str, float],
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
    form: RowForm | None = None,
    split: Split = WHOLE,
) -> list[Any]:
    """All batches of one epoch, in a random order, rows of like length together.

    Args:
        examples: by task.
        weights: passes over a task's examples an epoch; a fraction takes a fresh random part.
        batch_tokens: rows x longest row of a batch stay at or below this (one row may exceed it alone).
        form: of the rows that are trained on; by default they are as rendered, and a batch is a `Batch`.
        split: where it splits anything, an element of the result is the list of this process's parts of one step.
    """
    form = form or PLAIN
    generator = np.random.default_rng([seed, epoch])
    rows = [form.shape(row) for row in _epoch_rows(examples, renderer, weights, generator)]
    groups = [[rows[i] for i in group] for group in random_buckets([*map(form.size, rows)], batch_tokens, generator)]
    if split == WHOLE:
        return [form.collate(group) for group in groups]
    starts = range(0, len(groups), split.accumulation)
    return [step_parts(groups[start : start + split.accumulation], form, split) for start in starts]


def _epoch_rows(
    examples: Mapping[str, Sequence[Example]],
    renderer: Renderer,
    weights: Mapping[str, float],
    generator: np.random.Generator,
) -> list[Row]:
    """The rows of one epoch, task by task, each under a template of its own; see `epoch_batches`."""
    rows: list[Row] = []
    for task, members in examples.items():
        if not members:
            continue
        count = round(len(members) * weights[task])
        passes = [generator.permutation(len(members)) for _ in range(-(-count // len(members)))]
        chosen = np.concatenate(passes)[:count] if passes else np.zeros(0, np.int64)
        templates = generator.integers(0, 1 << 30, size=len(chosen))
        rows += [renderer.render(members[i], int(t)) for i, t in zip(chosen, templates, strict=True)]
    return [row for row in rows if row.weights is None or any(row.weights)]  # others lost all of their targets


def random_buckets(lengths: Sequence[int], batch_tokens: int, generator: np.random.Generator) -> list[list[int]]:
    """Rows of like length together, in a random order.

    Args:
        lengths: tokens of every row.
        batch_tokens: rows x longest row of a batch stay at or below this (one row may exceed it alone).

    Returns:
        The positions of each batch's rows.
    """
    order: list[int] = generator.permutation(len(lengths)).tolist()
    mean = max(1.0, float(np.mean(lengths))) if order else 1.0
    chunk = max(1, int(_BUCKETS_AHEAD * batch_tokens / mean))
    groups: list[list[int]] = []
    for start in range(0, len(order), chunk):
        groups += buckets(lengths, order[start : start + chunk], batch_tokens)
    return [groups[i] for i in generator.permutation(len(groups))]


def buckets(lengths: Sequence[int], rows: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """The given rows (positions in `lengths`) by length, cut so that rows x longest row stay within `batch_tokens`."""
    groups: list[list[int]] = []
    current: list[int] = []
    for row in sorted(rows, key=lambda r: lengths[r]):
        if current and (len(current) + 1) * lengths[row] > batch_tokens:
            groups.append(current)
            current = []
        current.append(row)
    return [*groups, current] if current else groups


def pad(rows: Sequence[Row]) -> Batch:
    """Right-padded tokens and shifted targets; the last token of a row predicts nothing and is left out."""
    whole = padded([row.tokens for row in rows]).numpy()
    columns, ends = np.arange(whole.shape[1] - 1), np.array([len(row.tokens) - 1 for row in rows])[:, None]
    starts = np.array([max(row.answer, 1) for row in rows])
    answers = (columns >= starts[:, None] - 1) & (columns < ends)
    tokens = torch.from_numpy(np.where(columns < ends, whole[:, :-1], 0))
    targets = torch.from_numpy(np.where(answers, whole[:, 1:], IGNORED))
    if all(row.weights is None for row in rows):
        return Batch(tokens, targets)
    weights = np.zeros(tokens.shape, np.float32)
    weights[answers] = [
        weight
        for start, row in zip(starts.tolist(), rows, strict=True)
        for weight in (row.weights or [1.0] * (len(row.tokens) - row.answer))[start - row.answer :]
    ]
    factors = torch.from_numpy(weights)
    return Batch(tokens, targets.where(factors > 0, IGNORED), factors)


def padded(rows: Sequence[Sequence[int]], value: int = 0) -> Tensor:
    """Rows of integers as int64 [B, T], right-padded with `value`."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    found = np.full((len(rows), int(lengths.max(initial=0))), value, np.int64)
    flat = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    found[np.arange(found.shape[1]) < lengths[:, None]] = flat
    return torch.from_numpy(found)


def _counts(row: Row) -> Counts:
    start = max(row.answer, 1)
    if row.weights is None:
        return Counts(len(row.tokens) - start)
    return Counts(sum(weight > 0 for weight in row.weights[start - row.answer :]))


def _part(batch: Batch, total: Counts) -> Batch:
    return batch._replace(weights=part_weights(batch.targets, batch.weights, total))


PLAIN = RowForm(lambda row: row, lambda row: len(row.tokens), pad, _counts, _part)
