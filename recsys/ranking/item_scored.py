"""The ranker of whole items: what the language model would write next, scored by its softmax over the catalogue.

It reads the states that the beam search starts from, so that it costs no further pass of the model. Each candidate is
an item of the catalogue, with the semantic id that it is written as.
"""

from __future__ import annotations

import torch

from recsys.baselines.base import rank_among
from recsys.llm.storage import LanguageModel
from recsys.ranking.base import Ranker
from recsys.ranking.conditions import prompt_states
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.tables import FloatArray, IntArray, SemanticIds, TopItems


class ItemScoredRanker:
    """Ranks by the scores that the language model gives to whole items.

    Args:
        language_model: one that reads items as vectors.

    Raises:
        ValueError: it reads their codes.
    """

    def __init__(self, language_model: LanguageModel, semantic_ids: SemanticIds) -> None:
        over = language_model.over(semantic_ids)
        reader = over.reader
        if over.items is None or reader is None:
            raise ValueError("the language model reads items as codes and has no scores of whole items")
        self._items, self._vectors = over.items, reader.vectors
        self._conditions = prompt_states(over, semantic_ids)

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """See `Ranker`."""
        states = torch.from_numpy(self._conditions(batch)).to(self._vectors.device)

        @torch.inference_mode()
        def scores(rows: IntArray) -> FloatArray:
            found: FloatArray = (
                self._items.scores(states[rows], batch.histories.take(rows), self._vectors).cpu().numpy()
            )
            return found

        return batch.ranked_once(
            (self, k), lambda filters: rank_among(filters, scores, len(batch), num_items=len(self._items), k=k)
        )


def build(context: RankingContext) -> Ranker | None:
    """None where a run has no language model, or one that reads codes."""
    model, items = context.models.language_model, context.items
    if model is None or model.items is None or items.semantic_ids is None:
        return None
    return ItemScoredRanker(model, items.semantic_ids)
