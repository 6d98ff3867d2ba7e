"""The ranker of the most popular items, the same for everyone; the cheapest there is."""

from __future__ import annotations

import numpy as np

from recsys.baselines.popularity import Popularity
from recsys.ranking.base import Ranker, ScoreRanker
from recsys.ranking.loading import RankingContext


def build(context: RankingContext) -> Ranker:
    """From the training interactions of every item, or their weights."""
    return ScoreRanker(Popularity(context.items.popularity.astype(np.float32)))
