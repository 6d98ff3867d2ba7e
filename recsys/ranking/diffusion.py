"""The rankers of latents: of the diffusion module's samples of the next item, and of a regression's single point."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from recsys.data.categories import item_categories
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.sampling import sample_key
from recsys.ranking.base import Ranker
from recsys.ranking.conditions import Conditions
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import GENERATIVE
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.scoring import (
    Candidates,
    Scoring,
    TrialResult,
    best_items,
    category_agreement,
    find_candidates,
    log_popularity,
    tune_scoring,
)
from recsys.tables import FloatArray, IntArray, TopItems, concatenate

USERS_PER_BATCH = 128  # whose samples and candidates are in memory at once
REDUCED_SAMPLES = 8


class Agreement(NamedTuple):
    """What is needed to compare an item's category with what the language model generates."""

    categories: IntArray  # [N], -1 = none
    num_categories: int

    @classmethod
    def of_labels(cls, labels: list[str | None] | None) -> Agreement | None:
        """Of one label an item; None where the catalogue has no categories, or one alone."""
        known = sorted({label for label in labels or () if label is not None})
        if len(known) < 2:
            return None
        number = {label: code for code, label in enumerate(known)}
        return cls(np.array([-1 if label is None else number[label] for label in labels or ()]), len(known))

    def of(self, generated: TopItems) -> FloatArray:
        """[U, N]; see `category_agreement`."""
        return category_agreement(generated, self.categories, self.num_categories)


@dataclass(frozen=True)
class LatentSearch:
    """Candidates near points in latent space.

    Args:
        latents: [N, D] in catalogue order.
        index: over the same latents, labelled by item index.
        counts: [N] training interactions, for the popularity prior.
        agreement: for the bonus on the generated category; None leaves it out.
    """

    latents: FloatArray
    index: ItemIndex
    counts: IntArray
    agreement: Agreement | None = None

    @cached_property
    def _popularity(self) -> FloatArray:
        return log_popularity(self.counts)

    def candidates(
        self, batch: RankingBatch, points: Callable[[IntArray], FloatArray], *, nearest: int
    ) -> Iterator[tuple[IntArray, Candidates]]:
        """Rows of the batch with their candidates, some users at a time.

        Args:
            points: rows -> points [B, S, D].
            nearest: items of each point.
        """
        generated = batch.rankings.get(GENERATIVE) if self.agreement is not None else None
        starts = range(0, len(batch), USERS_PER_BATCH)
        for start in batch.tracker.track(starts, "searching latents", len(starts)):
            rows = np.arange(start, min(start + USERS_PER_BATCH, len(batch)))
            bonus = None
            if generated is not None and self.agreement is not None:
                bonus = self.agreement.of(TopItems(generated.items[rows], generated.scores[rows]))
            candidates = batch.candidates.take(rows)
            yield (
                rows,
                find_candidates(
                    points(rows),
                    search=lambda queries, k: self.index.search(queries, k, batch.candidates.allowed).labels,
                    latents=self.latents,
                    num_neighbors=nearest,
                    excluded=candidates.excluded,
                    popularity=self._popularity,
                    agreement=bonus,
                ),
            )


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
        self._scoring = scoring or Scoring(1.0)

    @property
    def params(self) -> dict[str, Any]:
        return self._scoring.to_json()

    def with_params(self, params: Mapping[str, Any]) -> Self:
        changed = copy.copy(self)
        changed._scoring = Scoring(**params)
        return changed

    def trials(self, batch: RankingBatch, targets: IntArray) -> list[TrialResult]:
        """Every bandwidth and weight of the priors, best first; see `tune_scoring`."""
        found = self._search.candidates(batch, self._samples(batch), nearest=self._nearest)
        agreement = GENERATIVE in batch.rankings and self._search.agreement is not None
        return tune_scoring(((candidates, targets[rows]) for rows, candidates in found), agreement=agreement)

    def tune(self, batch: RankingBatch, targets: IntArray) -> Self:
        return self.with_params(self.trials(batch, targets)[0].scoring.to_json())

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


def _search(context: RankingContext) -> LatentSearch | None:
    items = context.items
    if items.latents is None or items.item_index is None:
        return None
    agreement = Agreement.of_labels(item_categories(items.catalog))
    return LatentSearch(items.latents, items.item_index, items.counts, agreement)


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
