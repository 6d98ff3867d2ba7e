"""The ranker of the cross-entropy head: a softmax over all items' latents, on the language model's states."""

from __future__ import annotations

from recsys.baselines.base import rank_among
from recsys.diffusion.heads import QueryHead
from recsys.ranking.base import Ranker
from recsys.ranking.conditions import Conditions
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.tables import FloatArray, TopItems


class CrossEntropyRanker:
    """Ranks by the head's scores of all items.

    Args:
        latents: [N, D] in catalogue order.
    """

    def __init__(self, head: QueryHead, latents: FloatArray, conditions: Conditions) -> None:
        self._head, self._latents, self._conditions = head, latents, conditions

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """See `Ranker`."""
        states = self._conditions(batch)
        return batch.ranked_once(
            (self, k),
            lambda filters: rank_among(
                filters,
                lambda rows: self._head.scores(states[rows], self._latents),
                len(batch),
                num_items=len(self._latents),
                k=k,
            ),
        )


def build(context: RankingContext) -> Ranker | None:
    """None where a run has no such head."""
    head, conditions, latents = context.models.head("cross_entropy"), context.conditions, context.items.latents
    if head is None or conditions is None or latents is None:
        return None
    return CrossEntropyRanker(head, latents, conditions)
