"""Ranking by what the diffusion module imagines: samples of the next item's latent, and the items nearest to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from recsys.baselines.base import TopItems, join, top_items
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.sampling import sample_key
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
from recsys.tables import BoolArray, FloatArray, IntArray
from recsys.tracking import NullTracker, Tracker

USERS_A_BATCH = 128  # whose samples and candidates are in memory at once


class Asked(NamedTuple):
    """Requests: the language model's state behind each history, a key that names its user, and what may be found."""

    states: FloatArray  # [U, d_h]
    keys: list[int]
    excluded: Sequence[IntArray] | None
    allowed: BoolArray | None = None  # [N]

    @classmethod
    def of(
        cls,
        states: FloatArray,
        names: Sequence[str],
        excluded: Sequence[IntArray] | None,
        allowed: BoolArray | None = None,
    ) -> Asked:
        """Keys are made of `names`, user ids or histories: the same name draws the same samples."""
        return cls(states, [sample_key(name) for name in names], excluded, allowed)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: slice) -> Asked:
        excluded = None if self.excluded is None else self.excluded[rows]
        return Asked(self.states[rows], self.keys[rows], excluded, self.allowed)


class Agreement(NamedTuple):
    """What is needed to compare an item's category with what the language model generates."""

    categories: IntArray  # [N], -1 = none
    num_categories: int

    @classmethod
    def of_labels(cls, labels: Sequence[str | None] | None) -> Agreement | None:
        """Of one label an item; None where the catalogue has no categories, or one alone."""
        known = sorted({label for label in labels or () if label is not None})
        if len(known) < 2:
            return None
        number = {label: code for code, label in enumerate(known)}
        return cls(np.array([-1 if label is None else number[label] for label in labels or ()]), len(known))

    def of(self, generated: TopItems) -> FloatArray:
        """[U, N]; see `category_agreement`."""
        return category_agreement(generated, self.categories, self.num_categories)


class PreferenceRanker:
    """Draws samples for every request and ranks the items near them.

    Args:
        latents: [N, D] in catalogue order.
        index: over the same latents, labelled by item index.
        counts: [N] training interactions, for the popularity prior.
        agreement: for the bonus on the generated category; none leaves it out.
        nearest: items that every sample is asked for.
        seed: of the noise, with each request's key.
    """

    def __init__(
        self,
        preference: PreferenceModel,
        *,
        latents: FloatArray,
        index: ItemIndex,
        counts: IntArray,
        agreement: Agreement | None,
        nearest: int,
        seed: int,
    ) -> None:
        self._preference, self._latents, self._index = preference, latents, index
        self._popularity = log_popularity(counts)
        self._agreement, self._nearest, self._seed = agreement, nearest, seed

    def tune(
        self,
        asked: Asked,
        targets: IntArray,
        *,
        samples: int | None = None,
        generated: TopItems | None = None,
        tracker: Tracker | None = None,
    ) -> list[TrialResult]:
        """Bandwidth and prior weights on validation requests, best first; see `tune_scoring`."""
        batches = self._batches(asked, self._sampler(samples), self._nearest, generated, tracker)
        return tune_scoring(
            ((found, targets[rows]) for rows, found in batches),
            agreement=generated is not None and self._agreement is not None,
        )

    def rank(
        self,
        asked: Asked,
        scoring: Scoring,
        *,
        k: int,
        samples: int | None = None,
        generated: TopItems | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """The `k` best items of every request.

        Args:
            samples: latents drawn for a request; by default what the model is configured for.
            generated: the language model's own ranking of the same requests, for the bonus on its category.
        """
        batches = self._batches(asked, self._sampler(samples), max(self._nearest, k), generated, tracker)
        return join([best_items(found, scoring.score(found), k) for _, found in batches], k)

    def rank_points(self, points: FloatArray, excluded: Sequence[IntArray] | None, *, k: int) -> TopItems:
        """The `k` items nearest to a point [U, D] each, such as a regression's."""
        asked = Asked(points, [0] * len(points), excluded)
        batches = self._batches(asked, lambda part: part.states[:, None], k, None, None)
        return join([best_items(found, Scoring(1.0).score(found), k) for _, found in batches], k)

    def rank_scores(self, head: QueryHead, asked: Asked, *, k: int) -> TopItems:
        """The `k` best items of every request by a head's own scores."""
        return rank_by_scores(lambda rows: head.scores(asked.states[rows], self._latents), asked, k=k)

    def _sampler(self, samples: int | None) -> Callable[[Asked], FloatArray]:
        return lambda asked: self._preference.sample(asked.states, asked.keys, seed=self._seed, samples=samples)

    def _batches(
        self,
        asked: Asked,
        draw: Callable[[Asked], FloatArray],
        nearest: int,
        generated: TopItems | None,
        tracker: Tracker | None,
    ) -> Iterator[tuple[slice, Candidates]]:
        slices = [slice(start, start + USERS_A_BATCH) for start in range(0, len(asked), USERS_A_BATCH)]
        for rows in (tracker or NullTracker()).track(slices, "sampling preferences", len(slices)):
            part = asked.take(rows)
            bonus = None
            if generated is not None and self._agreement is not None:
                bonus = self._agreement.of(TopItems(generated.items[rows], generated.scores[rows]))
            yield (
                rows,
                find_candidates(
                    draw(part),
                    search=lambda queries, k: self._index.search(queries, k, asked.allowed).labels,
                    latents=self._latents,
                    num_neighbors=nearest,
                    excluded=part.excluded,
                    popularity=self._popularity,
                    agreement=bonus,
                ),
            )


def rank_by_scores(score: Callable[[slice], FloatArray], asked: Asked, *, k: int) -> TopItems:
    """The `k` best items of every request by `score`, which gives the scores [B, N] of a slice of them."""
    parts = []
    for start in range(0, len(asked), USERS_A_BATCH):
        rows = slice(start, start + USERS_A_BATCH)
        part = asked.take(rows)
        scores = score(rows).astype(np.float32)
        if part.allowed is not None:
            scores[:, ~part.allowed] = -np.inf
        if part.excluded is not None:
            for row, items in enumerate(part.excluded):
                scores[row, items] = -np.inf
        parts.append(top_items(scores, k))
    return join(parts, k)
