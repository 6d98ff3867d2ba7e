"""How the bandwidth of the kernel around samples is chosen, and that nothing else scores."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import pytest

from recsys.diffusion.preference import PreferenceModel
from recsys.errors import DataError
from recsys.metrics import top_k_metrics
from recsys.ranking.diffusion import BANDWIDTHS, DiffusionRanker, LatentSearch, tune_bandwidth
from recsys.ranking.query import RankingBatch
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.scoring import Candidates, Scoring, best_items, find_candidates, nearest_distance
from recsys.tables import FloatArray, Histories, IntArray
from tests.ranking.trained import batch

ITEMS, DIM, USERS = 40, 3, 60
LATENTS = np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(np.float32)


class Noisy(NamedTuple):
    """Stands for a diffusion module: samples of each user around the latent of one item."""

    items: IntArray
    spread: float

    def sample(self, states: FloatArray, keys: list[int], *, seed: int, num_samples: int | None) -> FloatArray:
        noise = np.random.default_rng(seed).standard_normal((len(self.items), num_samples or 16, DIM))
        own = LATENTS[self.items][:, None] + self.spread * noise
        return own[states[:, 0].astype(int)].astype(np.float32)


def ranker(items: IntArray, *, spread: float = 0.6, num_samples: int = 16) -> DiffusionRanker:
    search = LatentSearch(LATENTS, ItemIndex.build(LATENTS, config=IndexConfig(kind="flat")))

    def conditions(requests: RankingBatch) -> FloatArray:
        return np.array([[int(user)] for user in requests.histories.user_ids], np.float32)

    model = cast(PreferenceModel, Noisy(items, spread))
    return DiffusionRanker(model, search, conditions, num_samples=num_samples, nearest=6)


def requests(users: int = USERS) -> RankingBatch:
    return batch(Histories.from_lists([str(user) for user in range(users)], [[] for _ in range(users)]))


def near_in(queries: FloatArray, k: int) -> IntArray:
    return np.argsort(np.square(queries[:, None] - LATENTS[None]).sum(axis=2), axis=1, kind="stable")[:, :k]


def test_each_bandwidth_is_measured_as_ranking_with_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, measured = np.random.default_rng(2), dict[float, float]()
    samples, targets = generator.standard_normal((40, 6, DIM)).astype(np.float32), generator.integers(0, ITEMS, 40)
    parts = [
        find_candidates(samples[part], search=near_in, latents=LATENTS, num_neighbors=4, excluded=None)
        for part in (slice(0, 25), slice(25, 40))
    ]
    score = Scoring.score
    batches = list(zip(parts, (targets[:25], targets[25:]), strict=True))
    monkeypatch.setattr(Scoring, "score", lambda s, c: measured.setdefault(s.bandwidth, 0.0) or score(s, c))
    best = tune_bandwidth(batches)
    for bandwidth in measured:
        tops = [best_items(part, score(Scoring(bandwidth), part), 10).items for part in parts]
        measured[bandwidth] = top_k_metrics(np.concatenate(tops), targets, k=10).ndcg
    assert len(measured) >= 6
    assert len(set(measured.values())) > 1, "bandwidths matter here"
    assert best.score == pytest.approx(max(measured.values()), abs=1e-6)
    assert best.score == pytest.approx(measured[best.values["bandwidth"]], abs=1e-6)


def test_the_figure_of_the_tuning_is_that_of_the_tuned_ranker() -> None:
    items = np.random.default_rng(5).integers(0, ITEMS, USERS)
    untuned = ranker(items)
    best, tuned = untuned.best_bandwidth(requests(), items), untuned.tune(requests(), items)
    assert tuned.params == best.values
    assert untuned.params == {"bandwidth": 1.0}
    found = tuned.rank(requests(), 10)
    assert best.score == pytest.approx(top_k_metrics(found.items, items, k=10).ndcg, abs=1e-6)


def wide_tastes(thresholds: FloatArray) -> Candidates:
    """A user a threshold, in units of the bandwidth: item 1 comes before item 0 by kernels about that wide or wider.

    Item 0 is much nearer to one of the two samples, item 1 a little nearer to both on average.
    """
    gaps = 4.2 / np.square(thresholds)
    target = 11 - np.repeat(gaps[:, None], 2, axis=1)
    other = np.tile([1.0, 21.0], (len(gaps), 1))
    items = np.tile([0, 1], (len(gaps), 1))
    return Candidates(items, np.stack([other, target], axis=2))


def users_served(candidates: Candidates, bandwidth: float) -> int:
    """How many get item 1 first, by the formula."""
    kernels = np.exp(-candidates.distances / (2 * bandwidth**2)).sum(axis=1)
    return int((kernels[:, 1] > kernels[:, 0]).sum())


def test_a_bandwidth_at_the_edge_of_the_grid_widens_it() -> None:
    users = wide_tastes(1.2 * np.sqrt(2) ** np.arange(7))
    best = tune_bandwidth([(users, np.ones(7, np.int64))])
    served = [users_served(users, nearest_distance(users) * BANDWIDTHS.value(number)) for number in range(-3, 9)]
    first = served.index(7) - 3
    assert BANDWIDTHS.last < first < BANDWIDTHS.highest
    assert best.values["bandwidth"] == pytest.approx(nearest_distance(users) * np.sqrt(2) ** first)
    assert (best.score, best.at_edge) == (1, ())


def test_a_bandwidth_that_is_the_last_one_allowed_is_named() -> None:
    users = wide_tastes(1.2 * np.sqrt(2) ** np.arange(14))
    best = tune_bandwidth([(users, np.ones(14, np.int64))])
    assert best.values["bandwidth"] == pytest.approx(16 * nearest_distance(users))
    assert best.score < 1
    assert best.at_edge == ("bandwidth",)


def test_one_sample_ranks_alike_by_any_bandwidth_and_keeps_the_unit() -> None:
    items = np.random.default_rng(5).integers(0, ITEMS, USERS)
    tuned = ranker(items, num_samples=1).tune(requests(), items)
    found = tuned.rank(requests(), 5)
    other = tuned.with_params({"bandwidth": 0.2}).rank(requests(), 5)
    assert np.array_equal(found.items, other.items)


def test_without_users_there_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="no validation users"):
        tune_bandwidth([])
