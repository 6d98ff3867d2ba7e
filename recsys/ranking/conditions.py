"""Conditions of the diffusion module and the plain heads: the hidden state behind each request's prompt.

Prompts are read once a batch: the generative ranker shares the states that it decodes from.
"""

from __future__ import annotations

from collections.abc import Callable

from recsys.diffusion.joint import JointPreference
from recsys.llm.conditions import QueryConditions
from recsys.llm.storage import LanguageModel
from recsys.ranking.query import RankingBatch
from recsys.tables import FloatArray, SemanticIds

Conditions = Callable[[RankingBatch], FloatArray]
"""The condition [U, d_h] of each request."""
PROMPT_STATES = "prompt_states"
CONTINUOUS_STATES = "continuous_states"


def prompt_states(language_model: LanguageModel, semantic_ids: SemanticIds) -> Conditions:
    """Behind the generative ranker's own prompts; read here only where that ranker has not."""
    read = QueryConditions(language_model, semantic_ids)

    def conditions(batch: RankingBatch) -> FloatArray:
        return batch.shared(PROMPT_STATES, lambda: read(batch.histories, window=batch.max_history).numpy())

    return conditions


def continuous_states(joint: JointPreference) -> Conditions:
    """Behind prompts of continuous tokens, which only the diffusion module and the heads read."""

    def conditions(batch: RankingBatch) -> FloatArray:
        window = batch.max_history
        return batch.shared(CONTINUOUS_STATES, lambda: joint.query_conditions(batch.histories, window=window).numpy())

    return conditions
