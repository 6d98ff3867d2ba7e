"""The ranker of SASRec, where a run has collaborative vectors."""

from __future__ import annotations

from recsys.ranking.base import Ranker, ScoreRanker
from recsys.ranking.loading import RankingContext


def build(context: RankingContext) -> Ranker | None:
    """None where items have no collaborative vectors."""
    sasrec = context.models.sasrec
    return None if sasrec is None else ScoreRanker(sasrec, context.items.proxies)
