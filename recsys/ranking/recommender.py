"""Requests in the user's own item ids -> answers: what the command line, the estimator and the endpoint all call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from recsys.errors import DataError
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.notices import Candidates, Notice, history_notices, shortage
from recsys.ranking.query import RankingBatch
from recsys.ranking.stopwatch import Stopwatch
from recsys.tables import SEEN_LEFT_OUT, BoolArray, CandidateFilter, Catalog, Histories, IntArray, TopItems


@dataclass(frozen=True)
class Request:
    """One request for recommendations.

    `user` names the noise of the diffusion samples, so that one user always gets the same list; the history does where
    no user is named. It also says whose dislikes are left out, where the recommender knows any. `exclude_seen` None
    means the recommender's own policy; each policy has its own fusion.
    """

    history: tuple[str, ...] = ()
    k: int = 10
    user: str | None = None
    exclude: tuple[str, ...] = ()
    exclude_seen: bool | None = None


@dataclass(frozen=True)
class RankedItem:
    """One item of an answer, with the score of each ranking that lists it and the tokens of its semantic id."""

    item_id: str
    title: str
    score: float
    source_scores: dict[str, float] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer(Sequence[RankedItem]):
    """A sequence of items, best first, and `notices` of what there is to know about them: why they are few, or whose.

    `seconds` is the time of each source, of the whole batch; it is not compared.
    """

    items: tuple[RankedItem, ...]
    notices: tuple[Notice, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, rank: int) -> RankedItem: ...

    @overload
    def __getitem__(self, rank: slice) -> tuple[RankedItem, ...]: ...

    def __getitem__(self, rank: int | slice) -> RankedItem | tuple[RankedItem, ...]:
        return self.items[rank]


class FittedRecommender:
    """Answers requests by an ensemble.

    Args:
        max_history: newest items of a history that rankers see.
        exclude_seen: whether a history's items are left out, where a request does not say.
        tokens: item index -> the tokens of its semantic id, for the answers.
        num_withdrawn: items of the catalogue that `allowed` always leaves out.
        dislikes: user -> item ids that are never recommended to this user.
    """

    def __init__(
        self,
        catalog: Catalog,
        ensemble: Ensemble,
        *,
        max_history: int,
        exclude_seen: bool,
        tokens: Callable[[int], tuple[str, ...]] | None = None,
        num_withdrawn: int = 0,
        dislikes: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.catalog, self.ensemble, self._titles = catalog, ensemble, catalog.titles()
        self._max_history, self._exclude_seen = max_history, exclude_seen
        self._tokens, self._num_withdrawn = tokens or (lambda _: ()), num_withdrawn
        self._dislikes = dislikes or {}

    def recommend(
        self, requests: Sequence[Request], *, allowed: BoolArray | None = None, ensemble: Ensemble | None = None
    ) -> list[Answer]:
        """An answer for each request; those of one policy that need as many items ranked are ranked together.

        Args:
            allowed: bool [N], the only items that any request may get.
            ensemble: to rank by in place of the recommender's own.

        Raises:
            DataError: a request's `k` is below 1.
        """
        ranked_by = ensemble or self.ensemble
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault((ranked_by.depth(request.k), self.excludes_seen(request)), []).append(row)
        answers: dict[int, Answer] = {}
        for (depth, exclude_seen), rows in groups.items():
            batch = self.batch([requests[row] for row in rows], exclude_seen=exclude_seen, allowed=allowed)
            found = self._answers([requests[row] for row in rows], batch, ranked_by, depth)
            answers |= zip(rows, found, strict=True)
        return [answers[row] for row in range(len(requests))]

    def item(self, item: int, score: float, source_scores: Mapping[str, float] | None = None) -> RankedItem:
        """An item index as it is shown."""
        return RankedItem(
            self.catalog.item_ids[item], self._titles[item], score, dict(source_scores or {}), self._tokens(item)
        )

    def excludes_seen(self, request: Request) -> bool:
        """Whether the items of the request's history are left out of its answer."""
        return self._exclude_seen if request.exclude_seen is None else request.exclude_seen

    def batch(
        self, requests: Sequence[Request], *, exclude_seen: bool, allowed: BoolArray | None = None
    ) -> RankingBatch:
        """Requests of one policy as rankers get them: the newest known items of each history, and what is left out.

        Raises:
            DataError: a request's `k` is below 1.
        """
        for request in requests:
            if request.k < 1:
                raise DataError(f"k={request.k} recommendations were requested; at least 1 is needed")
        positions = self.catalog.positions
        known = [[positions[i] for i in request.history if i in positions] for request in requests]
        names = [r.user if r.user is not None else "\0".join(r.history) for r in requests]
        excluded = [np.union1d(*self._left_out(request, exclude_seen)) for request in requests]
        return RankingBatch.build(
            Histories.from_lists(names, known),
            max_history=self._max_history,
            exclude_seen=exclude_seen,
            candidates=CandidateFilter(excluded, allowed),
        )

    def _answers(
        self, requests: Sequence[Request], batch: RankingBatch, ensemble: Ensemble, depth: int
    ) -> list[Answer]:
        watch = Stopwatch()
        rankings = ensemble.rank(batch, depth, stopwatch=watch)
        answers = []
        for row, request in enumerate(requests):
            items = self._ranked(rankings, ensemble.answer, row, request.k)
            answers.append(Answer(items, self.notices(request, batch, given=len(items)), watch.seconds))
        return answers

    def notices(self, request: Request, batch: RankingBatch, *, given: int) -> tuple[Notice, ...]:
        """What there is to know about an answer of `given` items to a request of the batch."""
        positions = self.catalog.positions
        notices = history_notices(request.history, [i for i in request.history if i not in positions])
        if given >= request.k:
            return notices
        seen, excluded = self._left_out(request, batch.policy == SEEN_LEFT_OUT)
        candidates = self.candidates(batch.candidates.allowed, seen=seen, excluded=excluded)
        return (*notices, shortage(request.k, given, candidates))

    def candidates(self, allowed: BoolArray | None, *, seen: IntArray, excluded: IntArray) -> Candidates:
        """How many items could be in an answer, and why the others could not; arguments as in `Candidates.count`."""
        count = len(self.catalog)
        return Candidates.count(allowed, catalogue=count, withdrawn=self._num_withdrawn, seen=seen, excluded=excluded)

    def _left_out(self, request: Request, exclude_seen: bool) -> tuple[IntArray, IntArray]:
        """The items left out because they are in the history, and because the request or a dislike excludes them."""
        positions = self.catalog.positions
        unwanted = (*request.exclude, *self._dislikes.get(request.user or "", ()))
        seen, excluded = (
            np.array([positions[item] for item in items if item in positions], dtype=np.int64)
            for items in (request.history if exclude_seen else (), unwanted)
        )
        return seen, excluded

    def _ranked(self, rankings: Mapping[str, TopItems], answer: str, row: int, k: int) -> tuple[RankedItem, ...]:
        """The ranking that is the answer, with the scores that the others give its items."""
        scores = {source: _by_item(found, row) for source, found in rankings.items()}
        served = scores[answer]
        others = {source: found for source, found in scores.items() if source != answer or len(scores) == 1}
        return tuple(
            self.item(item, score, {source: found[item] for source, found in others.items() if item in found})
            for item, score in list(served.items())[:k]
        )


def _by_item(found: TopItems, row: int) -> dict[int, float]:
    """Item index -> score of one request, best first."""
    return {int(i): float(s) for i, s in zip(found.items[row], found.scores[row], strict=True) if i >= 0}
