"""The ranker of item-kNN; it keeps its similarities with the rankings of a run, and in a bundle."""

from __future__ import annotations

from pathlib import Path

from recsys.baselines.item_knn import ItemKnn, fit_item_knn
from recsys.ranking.base import Ranker, ScoreRanker
from recsys.ranking.loading import RankingContext
from recsys.ranking.registry import ITEM_KNN


def fit(context: RankingContext, folder: Path) -> None:
    """Write the similarities of a run's training histories."""
    histories = context.training_histories()
    fit_item_knn(histories, len(context.items.catalog), num_neighbors=context.config.item_knn_neighbors).save(folder)


def build(context: RankingContext) -> Ranker | None:
    """None where nothing was fitted."""
    folder = context.fitted(ITEM_KNN)
    return None if folder is None else ScoreRanker(ItemKnn.load(folder), context.items.proxies)
