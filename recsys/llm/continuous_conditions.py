"""Continuous prompts through a language model: the hidden state of `<pref>` is the condition, [B, d_h].

(ContRec, arXiv 2504.12007, section 3.) Takes the batches of `recsys.llm.continuous`, embedded by the connector; writes
nothing. The state is behind the model's final norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from recsys.llm.attention import Branches, branch_masks
from recsys.llm.conditions import ConditionedBatch, states_at
from recsys.llm.connector import Connector
from recsys.llm.continuous import ContinuousBatch, ContinuousPrompts
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.storage import LanguageModel
from recsys.tables import Histories
from recsys.tracking import Tracker


class ContinuousConditions(nn.Module):
    """Conditions of continuous prompts, with the loss of the texts.

    A step also has the same histories written as codes, so that the adapter keeps serving the generative ranker.
    """

    def __init__(self, language_model: LanguageModel, connector: Connector) -> None:
        super().__init__()
        self.loss = LanguageModelLoss(language_model.model, language_model.layout)
        self.connector = connector

    def hidden(self, token_ids: Tensor, branches: Branches | None = None) -> Tensor:
        """Hidden states [B, T, d_h] of right-padded rows: plain sequences, or trees where `branches` is given."""
        decoder = self.loss.decoder()
        tree = {}
        if branches is not None:
            tree = {"attention_mask": branch_masks(decoder, branches), "position_ids": branches.positions}
        embedded = self.connector(token_ids, decoder.get_input_embeddings())
        states: Tensor = decoder(inputs_embeds=embedded, use_cache=False, **tree).last_hidden_state
        return states

    def forward(self, *tensors: Any) -> ConditionedBatch:
        """See `ContinuousBatch`."""
        batch = ContinuousBatch(*tensors)
        hidden = self.hidden(batch.tokens, Branches(batch.positions, batch.reach, batch.branch))
        weights = None if batch.weights is None else batch.weights.expand(batch.targets.shape)
        texts = self.loss.losses(hidden, batch.targets, weights)
        losses = texts.plus(self.loss(batch.code_tokens, batch.code_targets, batch.code_weights))
        return ConditionedBatch(hidden[batch.rows, batch.columns], batch.items, losses, batch.item_weights)


def continuous_query_conditions(
    conditions: ContinuousConditions,
    prompts: ContinuousPrompts,
    histories: Histories,
    *,
    window: int,
    tracker: Tracker | None = None,
) -> Tensor:
    """The condition [U, d_h], float32 on the CPU, after the newest `window` items of each history."""
    conditions.eval()
    rows = [prompts.prompt(histories[user][-window:]) for user in range(len(histories))]
    ends = [np.array([len(row) - 1]) for row in rows]
    return states_at(conditions.loss.unwrapped(), rows, ends, forward=conditions.hidden, tracker=tracker)
