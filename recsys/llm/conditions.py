"""What a preference head is conditioned on: hidden states of the language model after histories of semantic ids.

The condition before an item is the last layer's state, behind the final norm, at the end of the prompt's prefix or at
the last token of the previous item: the state that the generative ranker would decode that item from. Reads a language
model, semantic ids and histories; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.histories import TrainingSequence, windows
from recsys.errors import ModelError
from recsys.instructions.examples import Example
from recsys.llm.collation import Row, buckets, pad, padded, random_buckets
from recsys.llm.heads import LanguageModelLoss, Losses
from recsys.llm.storage import LanguageModel
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import FloatArray, Histories, IntArray, SemanticIds
from recsys.tracking import NullTracker, Tracker

BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}  # of one forward pass; on a CPU what its caches hold


class Conditions(NamedTuple):
    """Hidden states and the next item of each."""

    states: Tensor  # float32 [P, d_h]
    targets: Tensor  # int64 [P] item indices
    weights: Tensor | None = None  # float32 [P] of the targets, 0 for what is none; None where all weigh the same


class ConditionedBatch(NamedTuple):
    """The language model's side of one step of joint training."""

    states: Tensor  # [P, d_h], with gradients
    targets: Tensor  # int64 [P] item indices
    language_model: Losses
    weights: Tensor | None = None  # float32 [P] of the targets


class SequentialRow(NamedTuple):
    """A window of a history under the sequential task, with its conditions."""

    row: Row
    columns: IntArray  # [n] of the row's tokens, the last one before each item
    items: IntArray  # [n] the next item of each
    weights: FloatArray | None = None  # [n] of these items, 0 for what is no target


class Positions(NamedTuple):
    """Where the conditions of a batch are, and the next item of each."""

    rows: Tensor  # [P]
    columns: Tensor  # [P]
    items: Tensor  # [P]
    weights: Tensor | None  # float32 [P], above 0


class DiscreteBatch(NamedTuple):
    """The fields of `recsys.llm.collation.Batch`, then those of `Positions`."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor | None
    rows: Tensor
    columns: Tensor
    items: Tensor
    item_weights: Tensor | None


def sequential_rows(
    language_model: LanguageModel, semantic_ids: SemanticIds, sequences: Sequence[TrainingSequence]
) -> list[SequentialRow]:
    """Each sequence in the generative ranker's prompt, that of template 0; over-long ones lose their oldest items."""
    renderer = language_model.renderer(semantic_ids)
    rows = []
    for sequence in sequences:
        weights = () if sequence.weights is None else tuple(sequence.weights.tolist())
        row = renderer.render(Example("sequential", history=tuple(sequence.items.tolist()), weights=weights), 0)
        kept = (len(row.tokens) - row.answer) // renderer.tokens_per_item
        rows.append(
            SequentialRow(row, row.answer - 1 + renderer.tokens_per_item * np.arange(kept), *sequence.last(kept))
        )
    return rows


def training_conditions(
    language_model: LanguageModel,
    semantic_ids: SemanticIds,
    histories: Histories,
    *,
    window: int,
    tracker: Tracker | None = None,
) -> Conditions:
    """The condition before every item of every training sequence; one forward pass a sequence.

    Args:
        language_model: merged, in evaluation mode.
        window: items of one sequence; longer histories are split as for the sequential task.

    Raises:
        ModelError: the model is in training mode.
    """
    rows = sequential_rows(language_model, semantic_ids, windows(histories, window))
    # Cut behind the last condition: the last item is not even an input.
    prompts = [r.row.tokens[: int(r.columns[-1]) + 1] for r in rows]
    columns = [r.columns for r in rows]
    states = states_at(language_model.model, prompts, columns, forward=_hidden(language_model), tracker=tracker)
    return Conditions(states, *next_items([TrainingSequence(r.items, r.weights) for r in rows]))


def next_items(sequences: Sequence[TrainingSequence]) -> tuple[Tensor, Tensor | None]:
    """All items [P] of sequences, and their weights [P], if they have any."""
    items = np.concatenate([np.zeros(0, np.int64), *(s.items for s in sequences)])
    weights = [s.weights for s in sequences if s.weights is not None]
    return torch.from_numpy(items), torch.from_numpy(np.concatenate(weights)) if weights else None


class QueryConditions:
    """Computes the conditions of requests; prepared once, for a catalogue that any number of requests are for."""

    def __init__(self, language_model: LanguageModel, semantic_ids: SemanticIds) -> None:
        over = language_model.over(semantic_ids)
        self._model, self._forward = over.model, _hidden(over)
        self._renderer = over.renderer(semantic_ids)

    def __call__(self, histories: Histories, *, window: int, tracker: Tracker | None = None) -> Tensor:
        """[U, d_h], float32, after the newest `window` items of each history; an empty one is allowed.

        Raises:
            ModelError: the model is in training mode.
        """
        prompts = [self._renderer.prompt(histories[user][-window:].tolist()) for user in range(len(histories))]
        ends = [np.array([len(prompt) - 1]) for prompt in prompts]
        return states_at(self._model, prompts, ends, forward=self._forward, tracker=tracker)


def _hidden(language_model: LanguageModel) -> Callable[[Tensor], Tensor]:
    """Of a merged model: token_ids [B, T] -> hidden states [B, T, d_h]."""
    decoder, reader = language_model.model.base_model, language_model.reader
    if reader is None:
        return lambda token_ids: decoder(input_ids=token_ids, use_cache=False).last_hidden_state
    return lambda token_ids: decoder(inputs_embeds=reader(token_ids), use_cache=False).last_hidden_state


@torch.no_grad()
def states_at(
    model: Any,
    prompts: Sequence[Sequence[int]],
    columns: Sequence[IntArray],
    *,
    forward: Callable[[Tensor], Tensor],
    tracker: Tracker | None = None,
) -> Tensor:
    """Hidden states [sum of n, d_h], float32 on the CPU, at the given columns [n] of each prompt, in their order.

    Args:
        forward: right-padded token_ids [B, T] -> the model's hidden states [B, T, d_h].

    Raises:
        ModelError: the model is in training mode.
    """
    if model.training:
        raise ModelError("the model is in training mode, where dropout makes states random; call model.eval() first")
    lengths = [len(prompt) for prompt in prompts]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(c) for c in columns], dtype=np.int64)])
    states = torch.empty(int(starts[-1]), model.get_input_embeddings().weight.shape[1])
    # The longest first, so that running out of memory happens at once.
    groups = buckets(lengths, range(len(prompts)), BATCH_TOKENS[model.device.type])[::-1]
    for group in (tracker or NullTracker()).track(groups, "hidden states", len(groups)):
        hidden = forward(padded([prompts[i] for i in group]).to(model.device))
        rows, at, *_ = concatenate_positions([columns[i] for i in group], [columns[i] for i in group])
        outputs = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in group])
        states[torch.from_numpy(outputs)] = hidden[rows, at].float().cpu()
    return states


def discrete_batches(rows: Sequence[SequentialRow], *, batch_tokens: int, seed: int, epoch: int) -> list[DiscreteBatch]:
    """All batches of one epoch, rows of similar length together, in an order of (seed, epoch)."""
    generator = np.random.default_rng([seed, epoch])
    groups = random_buckets([len(r.row.tokens) for r in rows], batch_tokens, generator)
    return [_collate([rows[i] for i in group]) for group in groups]


def _collate(rows: Sequence[SequentialRow]) -> DiscreteBatch:
    found = concatenate_positions([r.columns for r in rows], [r.items for r in rows], [r.weights for r in rows])
    return DiscreteBatch(*pad([r.row for r in rows]), found.rows, found.columns, found.items, found.weights)


def concatenate_positions(
    columns: Sequence[IntArray], items: Sequence[IntArray], weights: Sequence[FloatArray | None] = ()
) -> Positions:
    """A batch's conditions, given the columns, items and weights of every row; items of weight 0 are left out."""
    rows = torch.from_numpy(np.repeat(np.arange(len(columns)), [len(c) for c in columns]))
    at, following = torch.from_numpy(np.concatenate(columns)), torch.from_numpy(np.concatenate(items))
    weighted = [w for w in weights if w is not None]
    if not weighted:
        return Positions(rows, at, following, None)
    factors = torch.from_numpy(np.concatenate(weighted))
    kept = factors > 0
    return Positions(rows[kept], at[kept], following[kept], factors[kept])


class DiscreteConditions(nn.Module):
    """Conditions and the loss of the sequential task in one forward pass, with gradients."""

    def __init__(self, model: Any, layout: TokenLayout) -> None:
        super().__init__()
        self.loss = LanguageModelLoss(model, layout)

    def forward(self, *tensors: Any) -> ConditionedBatch:
        """See `DiscreteBatch`."""
        batch = DiscreteBatch(*tensors)
        hidden = self.loss.decoder()(input_ids=batch.tokens, use_cache=False).last_hidden_state
        losses = self.loss.losses(hidden, batch.targets, batch.weights)
        return ConditionedBatch(hidden[batch.rows, batch.columns], batch.items, losses, batch.item_weights)
