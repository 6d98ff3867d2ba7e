"""What every ranker of the registry must do, on models trained on the circle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.ranking.base import Ranker
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import RANKERS, build_rankers, with_terms
from recsys.tables import CandidateFilter, Histories, TopItems
from tests.ranking.fakes import NUM_ITEMS
from tests.ranking.trained import Trained, batch

HISTORIES = Histories.from_lists(
    ["a", "b", "c", "d", "e"], [[0, 1, 2], [], [7], [3, 4, 5, 6, 7, 8], list(range(1, NUM_ITEMS))]
)
NO_CANDIDATES = Histories.from_lists(["all"], [list(range(NUM_ITEMS))])


class AfterThose:
    """A ranker behind those whose rankings it reads."""

    def __init__(self, rankers: dict[str, Ranker]) -> None:
        self._rankers = rankers

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        for name, ranker in self._rankers.items():
            batch.rankings[name] = ranker.rank(batch, k)
        return batch.rankings[name]


@pytest.fixture(params=[*RANKERS, with_terms("sasrec"), with_terms("diffusion")])
def ranker(request: pytest.FixtureRequest, trained: Trained) -> Ranker:
    """One of each kind."""
    built = build_rankers(trained.context, [request.param])
    assert list(built)[-1] == request.param, "the trained circle has all that any ranker needs"
    return AfterThose(built) if len(built) > 1 else built[request.param]


def check_shape(found: TopItems, users: int, k: int) -> None:
    """Rows of k, best first, padding behind, no item twice."""
    assert found.items.shape == found.scores.shape == (users, k)
    assert (found.items.dtype, found.scores.dtype) == (np.int64, np.float32)
    listed = found.items >= 0
    assert (np.diff(listed.astype(int), axis=1) <= 0).all(), "padding comes last"
    assert np.isneginf(found.scores[~listed]).all()
    assert np.isfinite(found.scores[listed]).all()
    assert (found.items[~listed] == -1).all()
    assert (found.items < NUM_ITEMS).all()
    for items, scores, kept in zip(found.items, found.scores, listed, strict=True):
        assert len(set(items[kept].tolist())) == kept.sum()
        assert (np.diff(scores[kept]) <= 0).all()


@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS, NUM_ITEMS + 5])
def test_rows_of_k_items_best_first_and_padded(ranker: Ranker, k: int) -> None:
    found = ranker.rank(batch(HISTORIES, exclude_seen=False), k)
    check_shape(found, len(HISTORIES), k)
    assert ((found.items >= 0).sum(axis=1) >= min(k, 4)).all()
    check_shape(ranker.rank(batch(HISTORIES), k), len(HISTORIES), k)


def test_all_candidates_are_found_and_padding_follows_where_k_is_above_them(ranker: Ranker) -> None:
    found = ranker.rank(batch(HISTORIES), NUM_ITEMS + 5)
    for row, items in enumerate(found.items):
        left = set(range(NUM_ITEMS)) - set(HISTORIES[row].tolist())
        assert set(items[items >= 0].tolist()) == left
    nothing = ranker.rank(batch(NO_CANDIDATES), 3)
    check_shape(nothing, 1, 3)
    assert (nothing.items == -1).all()


def test_excluded_items_and_those_that_are_not_allowed_never_appear(ranker: Ranker) -> None:
    allowed = np.arange(NUM_ITEMS) % 3 != 1
    excluded = [np.array(items, dtype=np.int64) for items in ([3, 9], [], [0], [11, 2, 5], [6])]
    found = ranker.rank(batch(HISTORIES, candidates=CandidateFilter(excluded, allowed)), 10)
    check_shape(found, len(HISTORIES), 10)
    for row, items in enumerate(found.items):
        left = set(np.flatnonzero(allowed).tolist()) - set(excluded[row].tolist())
        kept = items[items >= 0].tolist()
        assert set(kept) == left, "seen items may come back, since the filter alone decides"


def test_the_order_of_requests_does_not_matter(ranker: Ranker) -> None:
    order = np.array([3, 0, 4, 2, 1])
    found, turned = ranker.rank(batch(HISTORIES), 5), ranker.rank(batch(HISTORIES.take(order)), 5)
    np.testing.assert_array_equal(turned.items, found.items[order])
    np.testing.assert_allclose(turned.scores, found.scores[order], atol=1e-4)


def test_a_request_gets_alone_what_it_gets_among_others(ranker: Ranker) -> None:
    together = ranker.rank(batch(HISTORIES), 5)
    for row in range(len(HISTORIES)):
        alone = ranker.rank(batch(HISTORIES.take(np.array([row]))), 5)
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-4)


def test_no_requests_give_no_rows(ranker: Ranker) -> None:
    assert ranker.rank(batch(Histories.from_lists([], [])), 3).items.shape == (0, 3)


@pytest.mark.parametrize("name", RANKERS)
def test_a_row_contains_nothing_of_the_other_rows(name: str, trained: Trained) -> None:
    alone, among = batch(HISTORIES), batch(HISTORIES)
    upside_down = TopItems(np.tile(np.arange(NUM_ITEMS)[::-1], (len(HISTORIES), 1)), np.zeros((len(HISTORIES), 12)))
    among.rankings.update({other: upside_down for other in RANKERS if other != name})
    tuned = trained.params.apply({name: trained.rankers[name]})[name]
    np.testing.assert_array_equal(tuned.rank(among, 6).items, tuned.rank(alone, 6).items)


@pytest.mark.parametrize("name", [name for name in RANKERS if name not in ("popularity", "sasrec")])
def test_popularity_is_in_no_other_row(name: str, trained: Trained) -> None:
    items = replace(trained.context.items, counts=np.arange(NUM_ITEMS)[::-1] ** 3)
    changed = build_rankers(trained.context.over(items), [name])[name]
    found = changed.rank(batch(HISTORIES), 6)
    np.testing.assert_array_equal(found.items, trained.rankers[name].rank(batch(HISTORIES), 6).items)
