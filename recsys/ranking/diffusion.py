"""The rankers of latents: of the diffusion module's samples of the next item, and of a regression's single point.

They rank by nearness alone. Terms of other systems are rows of their own (`recsys.ranking.terms`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.sampling import sample_key
from recsys.errors import DataError
from recsys.metrics import summed_gains
from recsys.ranking.base import Ranker
from recsys.ranking.conditions import Conditions
from recsys.ranking.grid import Choice, choose, ratios
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.scoring import Candidates, Scoring, best_items, find_candidates, nearest_distance
from recsys.tables import FloatArray, IntArray, TopItems, concatenate

USERS_PER_BATCH = 128  # whose samples and candidates are in memory at once
REDUCED_SAMPLES = 8
BANDWIDTHS = ratios(2**0.5, -3, 2, lowest=-8, highest=8)  # of the distance from a sample to its nearest item
CUTOFF = 10  # the bandwidth is chosen by validation NDCG at this length


@dataclass(frozen=True)
class LatentSearch:
    """Candidates near points in latent space.

    Args:
        latents: [N, D] in catalogue order.
        index: over the same latents, labelled by item index.
    """

    latents: FloatArray
    index: ItemIndex

    def candidates(
        self, batch: RankingBatch, points: Callable[[IntArray], FloatArray], *, nearest: int
    ) -> Iterator[tuple[IntArray, Candidates]]:
        """Rows of the batch with their candidates, some users at a time.

        Args:
            points: rows -> points [B, S, D].
            nearest: items of each point.
        """
        starts = range(0, len(batch), USERS_PER_BATCH)
        for start in batch.tracker.track(starts, "searching latents", len(starts)):
            rows = np.arange(start, min(start + USERS_PER_BATCH, len(batch)))
            found = find_candidates(
                points(rows),
                search=lambda queries, k: self.index.search(queries, k, batch.candidates.allowed).labels,
                latents=self.latents,
                num_neighbors=nearest,
                excluded=batch.candidates.take(rows).excluded,
            )
            yield rows, found


class DiffusionRanker:
    """Draws samples for every request and ranks the items near them by a kernel sum over the samples.

    Args:
        num_samples: latents drawn for a request; by default what the model is configured for.
        nearest: items that every sample contributes.
        seed: of the noise, with each request's user id.
        scoring: how candidates are scored; chosen by `tune`.
    """

    def __init__(
        self,
        preference: PreferenceModel,
        search: LatentSearch,
        conditions: Conditions,
        *,
        num_samples: int | None = None,
        nearest: int = 100,
        seed: int = 0,
        scoring: Scoring | None = None,
    ) -> None:
        self._preference, self._search, self._conditions = preference, search, conditions
        self._num_samples, self._nearest, self._seed = num_samples, nearest, seed
        self._scoring, self.at_edge = scoring or Scoring(1.0), tuple[str, ...]()

    @property
    def params(self) -> dict[str, Any]:
        return self._scoring.to_json()

    def with_params(self, params: Mapping[str, Any]) -> Self:
        changed = copy.copy(self)
        changed._scoring = Scoring(**params)
        return changed

    def best_bandwidth(self, batch: RankingBatch, targets: IntArray) -> Choice:
        """See `tune_bandwidth`."""
        found = self._search.candidates(batch, self._samples(batch), nearest=self._nearest)
        return tune_bandwidth((candidates, targets[rows]) for rows, candidates in found)

    def tune(self, batch: RankingBatch, targets: IntArray) -> Self:
        best = self.best_bandwidth(batch, targets)
        tuned = self.with_params(best.values)
        tuned.at_edge = best.at_edge
        return tuned

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """See `Ranker`."""
        found = self._search.candidates(batch, self._samples(batch), nearest=max(self._nearest, k))
        return concatenate([best_items(each, self._scoring.score(each), k) for _, each in found], k)

    def reduced(self) -> Self:
        """With few samples."""
        cheaper = copy.copy(self)
        cheaper._num_samples = min(REDUCED_SAMPLES, self._num_samples or REDUCED_SAMPLES)
        return cheaper

    def _samples(self, batch: RankingBatch) -> Callable[[IntArray], FloatArray]:
        """Rows of the batch -> their samples, drawn once for all policies."""
        conditions = self._conditions(batch)

        def draw(rows: IntArray) -> FloatArray:
            keys = [sample_key(batch.histories.user_ids[row]) for row in rows]
            return self._preference.sample(conditions[rows], keys, seed=self._seed, num_samples=self._num_samples)

        return lambda rows: batch.shared((self, "samples", int(rows[0])), lambda: draw(rows))


class RegressionRanker:
    """Ranks by nearness to the point that a regression predicts."""

    def __init__(self, head: QueryHead, search: LatentSearch, conditions: Conditions) -> None:
        self._head, self._search, self._conditions = head, search, conditions

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """See `Ranker`."""
        points = batch.shared((self, "points"), lambda: self._head.predict(self._conditions(batch)))
        found = self._search.candidates(batch, lambda rows: points[rows][:, None], nearest=k)
        return concatenate([best_items(each, Scoring(1.0).score(each), k) for _, each in found], k)


def tune_bandwidth(batches: Iterable[tuple[Candidates, IntArray]]) -> Choice:
    """The bandwidth with the highest NDCG@10 of validation users; see `recsys.ranking.grid`.

    Args:
        batches: candidates of some users, and their targets.

    Raises:
        DataError: there are no users.
    """
    users, unit, found = 0, 1.0, list[tuple[Candidates, IntArray]]()
    for candidates, targets in batches:
        unit = unit if users else nearest_distance(candidates)
        users += len(targets)
        # Whose target is no candidate gains nothing, whatever the bandwidth: the others alone are kept.
        hit, column = np.nonzero(candidates.items == targets[:, None])
        found.append((candidates.take(hit), column))
    if not users:
        raise DataError("bandwidth: no validation users to tune on; the data need users with 3 interactions or more")

    def ndcg(values: Mapping[str, float]) -> float:
        scoring = Scoring(**values)
        return sum(summed_gains(scoring.score(each), column, k=CUTOFF) for each, column in found) / users

    scaled = replace(BANDWIDTHS, value=lambda number: unit * BANDWIDTHS.value(number))
    return choose({"bandwidth": scaled}, ndcg)


def _search(context: RankingContext) -> LatentSearch | None:
    items = context.items
    return None if items.latents is None or items.item_index is None else LatentSearch(items.latents, items.item_index)


def build(context: RankingContext, *, num_samples: int | None = None) -> Ranker | None:
    """None where a run has no diffusion module."""
    preference, search, conditions = context.models.preference, _search(context), context.conditions
    if preference is None or search is None or conditions is None:
        return None
    nearest = context.config.neighbors_per_sample
    return DiffusionRanker(preference, search, conditions, num_samples=num_samples, nearest=nearest, seed=context.seed)


def build_regression(context: RankingContext) -> Ranker | None:
    """None where a run, or a bundle, has no regression head."""
    head, search, conditions = context.models.head("regression"), _search(context), context.conditions
    if head is None or search is None or conditions is None:
        return None
    return RegressionRanker(head, search, conditions)
