"""What a preference head is conditioned on: hidden states of the language model behind histories of semantic ids.

The state before an item is the last layer's, behind the final norm, at the end of the prompt's prefix or at the last
code of the item before: the state that the generative ranker would decode that item from. Reads a language model,
semantic ids and histories; writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.histories import windows
from recsys.errors import ModelError
from recsys.instructions.examples import Example
from recsys.llm.collation import Row, buckets, pad, random_buckets
from recsys.llm.heads import LanguageModelLoss, Losses
from recsys.llm.storage import LanguageModel
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import Histories, IntArray, SemanticIds
from recsys.tracking import NullTracker, Tracker

BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}  # of one forward pass; on a CPU what its caches hold


class Conditions(NamedTuple):
    """Hidden states and what follows each."""

    states: Tensor  # float32 [P, d_h]
    targets: Tensor  # int64 [P] item indices


class Conditioned(NamedTuple):
    """What one step of a joint training makes of a batch."""

    states: Tensor  # [P, d_h], with gradients
    targets: Tensor  # int64 [P] item indices
    language_model: Losses


class SequentialRow(NamedTuple):
    """A window of a history under the sequential task, with its conditions."""

    row: Row
    columns: IntArray  # [n] of the row's tokens, the last one before each item
    items: IntArray  # [n] item indices that follow


class DiscreteBatch(NamedTuple):
    tokens: Tensor  # [B, T] token_ids
    targets: Tensor  # [B, T] next token_id, IGNORED where nothing is asked
    rows: Tensor  # [P] where the conditions are
    columns: Tensor  # [P]
    items: Tensor  # [P] what follows each


def sequential_rows(
    language_model: LanguageModel, semantic_ids: SemanticIds, sequences: Sequence[IntArray]
) -> list[SequentialRow]:
    """Each sequence under the ranker's own prompt, that of template 0; over-long ones lose their oldest items."""
    renderer, levels = language_model.renderer(semantic_ids), semantic_ids.num_levels
    found = []
    for items in sequences:
        row = renderer.render(Example("sequential", history=tuple(items.tolist())), 0)
        kept = (len(row.tokens) - row.answer) // levels
        found.append(SequentialRow(row, row.answer - 1 + levels * np.arange(kept), items[-kept:]))
    return found


def training_conditions(
    language_model: LanguageModel,
    semantic_ids: SemanticIds,
    histories: Histories,
    *,
    window: int,
    bf16: bool = False,
    tracker: Tracker | None = None,
) -> Conditions:
    """The condition before every item of every training sequence; one forward pass a sequence.

    Args:
        language_model: merged, in evaluation mode.
        window: items of one sequence; longer histories are cut as the sequential task cuts them.
        bf16: compute in bfloat16 where autocast does; the states are float32 in any case.

    Raises:
        ModelError: the model is in training mode.
    """
    rows = sequential_rows(language_model, semantic_ids, list(windows(histories, window)))
    # Behind the last condition nothing is fed: the last item is not even seen.
    prompts = [r.row.tokens[: int(r.columns[-1]) + 1] for r in rows]
    states = states_at(language_model.model, prompts, [r.columns for r in rows], bf16=bf16, tracker=tracker)
    items = np.concatenate([r.items for r in rows]) if rows else np.zeros(0, np.int64)
    return Conditions(states, torch.from_numpy(items))


def query_conditions(
    language_model: LanguageModel,
    semantic_ids: SemanticIds,
    histories: Histories,
    *,
    window: int,
    bf16: bool = False,
    tracker: Tracker | None = None,
) -> Tensor:
    """The condition [U, d_h], float32, behind the newest `window` items of each history; an empty one is allowed.

    Raises:
        ModelError: the model is in training mode.
    """
    renderer = language_model.renderer(semantic_ids)
    prompts = [renderer.prompt(histories[user][-window:].tolist()) for user in range(len(histories))]
    ends = [np.array([len(prompt) - 1]) for prompt in prompts]
    return states_at(language_model.model, prompts, ends, bf16=bf16, tracker=tracker)


@torch.no_grad()
def states_at(
    model: Any,
    prompts: Sequence[Sequence[int]],
    columns: Sequence[IntArray],
    *,
    bf16: bool = False,
    tracker: Tracker | None = None,
) -> Tensor:
    """Hidden states [sum of n, d_h], float32 on the CPU, at the given columns [n] of each prompt, in their order.

    Raises:
        ModelError: the model is in training mode.
    """
    if model.training:
        raise ModelError("the model is in training mode, where dropout makes states random; call model.eval() first")
    lengths = [len(prompt) for prompt in prompts]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(c) for c in columns], dtype=np.int64)])
    width = model.get_input_embeddings().weight.shape[1]
    states = torch.empty(int(starts[-1]), width)
    # The longest first: what does not fit fails at once.
    groups = buckets(lengths, range(len(prompts)), BATCH_TOKENS[model.device.type])[::-1]
    for group in (tracker or NullTracker()).track(groups, "hidden states", len(groups)):
        tokens = torch.zeros(len(group), max(lengths[i] for i in group), dtype=torch.int64)
        for row, i in enumerate(group):
            tokens[row, : lengths[i]] = torch.tensor(prompts[i])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            hidden = model.base_model(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state
        rows = np.repeat(np.arange(len(group)), [len(columns[i]) for i in group])
        places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in group])
        at = np.concatenate([columns[i] for i in group])
        states[torch.from_numpy(places)] = hidden[torch.from_numpy(rows), torch.from_numpy(at)].float().cpu()
    return states


def discrete_batches(rows: Sequence[SequentialRow], *, batch_tokens: int, seed: int, epoch: int) -> list[DiscreteBatch]:
    """All batches of one epoch, rows of like length together, in an order of (seed, epoch)."""
    generator = np.random.default_rng([seed, epoch])
    groups = random_buckets([len(r.row.tokens) for r in rows], batch_tokens, generator)
    return [_batch([rows[i] for i in group]) for group in groups]


def _batch(rows: Sequence[SequentialRow]) -> DiscreteBatch:
    tokens, targets = pad([r.row for r in rows])
    return DiscreteBatch(tokens, targets, *places([r.columns for r in rows], [r.items for r in rows]))


def places(columns: Sequence[IntArray], items: Sequence[IntArray]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and items [P] of a batch's conditions, given those of every row."""
    rows = np.repeat(np.arange(len(columns)), [len(c) for c in columns])
    return torch.from_numpy(rows), torch.from_numpy(np.concatenate(columns)), torch.from_numpy(np.concatenate(items))


class DiscreteConditions(nn.Module):
    """Conditions and the loss of the sequential task out of one forward pass, with gradients."""

    def __init__(self, model: Any, layout: TokenLayout) -> None:
        super().__init__()
        self.loss = LanguageModelLoss(model, layout)

    def forward(self, tokens: Tensor, targets: Tensor, rows: Tensor, columns: Tensor, items: Tensor) -> Conditioned:
        """See `DiscreteBatch`."""
        hidden = self.loss.decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        return Conditioned(hidden[rows, columns], items, self.loss.losses(hidden, targets))
