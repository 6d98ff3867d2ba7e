"""What every ranker does, and the ranker of models that score the whole catalogue.

A ranker may do more: `TunableRanker` has parameters that validation users choose, `ReducibleRanker` a cheaper version
of itself for an endpoint under load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from recsys.baselines.base import ScoringModel
from recsys.ranking.query import RankingBatch
from recsys.tables import FloatArray, Histories, IntArray, TopItems


class Ranker(Protocol):
    """Ranks the catalogue for a batch of requests."""

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """The `k` best candidates of every request, best first; padded where there are fewer."""


@runtime_checkable
class TunableRanker(Ranker, Protocol):
    """A ranker with parameters (plain JSON values) that validation users choose."""

    @property
    def params(self) -> dict[str, Any]:
        """The present parameters."""

    @property
    def at_edge(self) -> tuple[str, ...]:
        """Parameters that `tune` left at the last value it may try, so that a better one may lie beyond."""

    def with_params(self, params: Mapping[str, Any]) -> Self:
        """The same ranker with other parameters.

        Raises:
            TypeError, ValueError: they are not of this ranker.
        """

    def tune(self, batch: RankingBatch, targets: IntArray) -> Self:
        """With the parameters that rank the targets [U] best."""


@runtime_checkable
class ReducibleRanker(Ranker, Protocol):
    """A ranker that can do with less time."""

    def reduced(self) -> Ranker:
        """A cheaper version."""


class ScoreRanker:
    """Ranks by a model that scores the whole catalogue.

    Args:
        proxies: [N], for each item of the catalogue the one that the model knows it as, -1 for the mean of all. The
            first items are those that the model was fitted on, as themselves; the others were added later.
    """

    def __init__(self, model: ScoringModel, proxies: IntArray | None = None) -> None:
        added = proxies is not None and len(proxies) > model.num_items
        self._model = _WithNewItems(model, proxies) if proxies is not None and added else model

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """See `Ranker`."""
        return batch.ranked_once(
            (self, k), lambda filters: self._model.rank_among(filters, batch.histories, k=k, tracker=batch.tracker)
        )


class _WithNewItems(ScoringModel):
    """A model and items that it does not know, each scored as its proxy."""

    def __init__(self, model: ScoringModel, proxies: IntArray) -> None:
        self._model, self._proxies = model, proxies

    @property
    def num_items(self) -> int:
        return len(self._proxies)

    def scores(self, batch: Histories) -> FloatArray:
        sequences = [self._proxies[batch[user]] for user in range(len(batch))]
        known = Histories.from_lists(batch.user_ids, [items[items >= 0] for items in sequences])
        scores = self._model.scores(known)
        new = self._proxies[self._model.num_items :]
        added = np.where(new >= 0, scores[:, new], scores.mean(axis=1, keepdims=True))
        # An empty history gets the most popular items, and a new item has no interactions: log(1 + 0) or less.
        empty = known.lengths == 0
        added[empty] = np.minimum(scores[empty].min(axis=1, keepdims=True), 0)
        return np.concatenate([scores, added], axis=1)
