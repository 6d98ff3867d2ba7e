"""Rows with terms: the score against loops, no term at weights of 0, what is missing, and a row as a fused source."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.categories import CategoryCodes
from recsys.metrics import top_k_metrics
from recsys.ranking.config import FusionConfig, RecommendConfig
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.fusion import common_scale
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import GENERATIVE, RANKERS, build_rankers, with_needed, with_terms
from recsys.ranking.terms import TermsRanker, TermWeights, category_log_probabilities, log_popularity
from recsys.ranking.tuning import TuningUsers, assemble, tune
from recsys.tables import SEEN_LEFT_OUT, Histories, IntArray, TopItems
from tests.ranking.trained import Trained, batch

ITEMS = 30
CODES = CategoryCodes(np.array([item % 4 - 1 for item in range(ITEMS)]), 3)  # every fourth item has none
COUNTS = np.random.default_rng(1).integers(0, 50, ITEMS)


def lists(seed: int, users: int, depth: int) -> TopItems:
    """Random items, best first, the last ones of every second user padding."""
    generator = np.random.default_rng(seed)
    items = np.argsort(generator.random((users, ITEMS)), axis=1)[:, :depth]
    scores = -np.sort(generator.exponential(3, (users, depth)), axis=1).astype(np.float32)
    scores[:, 1:2] = scores[:, :1]  # equal scores stay in the base's order
    padding = (np.arange(users)[:, None] % 2 == 1) & (np.arange(depth) >= depth - 2)
    return TopItems(np.where(padding, -1, items), np.where(padding, -np.inf, scores).astype(np.float32))


def requests(users: int, **rankings: TopItems) -> RankingBatch:
    made = batch(Histories.from_lists([f"u{user}" for user in range(users)], [[] for _ in range(users)]))
    made.rankings.update(rankings)
    return made


def naive(asked: RankingBatch, weights: TermWeights, user: int) -> dict[int, float]:
    """Item -> score of one user, one at a time."""
    base, generated = asked.rankings["base"], asked.rankings[GENERATIVE]
    listed = [(int(i), float(s)) for i, s in zip(base.items[user], base.scores[user], strict=True) if i >= 0]
    mass = dict.fromkeys(range(3), 0.0)
    for item, score in zip(generated.items[user], generated.scores[user], strict=True):
        if item >= 0 and CODES.codes[item] >= 0:
            mass[int(CODES.codes[item])] += float(np.exp(score))
    total = sum(mass.values())
    share = {code: (0.9 * mass[code] / total if total else 0.3) + 0.1 / 3 for code in mass}
    share[-1] = float(np.exp(np.mean([np.log(share[code]) for code in range(3)])))
    logs = [np.log1p(count) for count in COUNTS]
    return {
        item: (score - listed[0][1]) / weights.scale
        + weights.popularity * (logs[item] - np.mean(logs)) / np.std(logs)
        + (weights.agreement or 0) * np.log(share[int(CODES.codes[item])])
        for item, score in listed
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 5), st.floats(-1, 3), st.floats(-1, 3))
def test_the_score_equals_loops(seed: int, scale: float, popularity: float, agreement: float) -> None:
    asked = requests(5, base=lists(seed, 5, 8), generative=lists(seed + 1, 5, 6))
    weights = TermWeights(scale, popularity, agreement)
    found = TermsRanker("base", COUNTS, CODES, weights=weights).rank(asked, 8)
    for user in range(5):
        expected = naive(asked, weights, user)
        items = [int(item) for item in found.items[user] if item >= 0]
        assert found.scores[user, : len(items)] == pytest.approx([expected[item] for item in items], abs=1e-4)
        assert set(items) == set(expected)
        assert (np.diff(found.scores[user, : len(items)]) <= 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.sampled_from([0.0, None]), st.integers(1, 12))
def test_with_weights_of_0_it_is_the_bases_ranking_item_by_item(
    seed: int, scale: float, agreement: float | None, k: int
) -> None:
    base = lists(seed, 6, 10)
    asked = requests(6, base=base, generative=lists(seed + 1, 6, 6))
    found = TermsRanker("base", COUNTS, CODES, weights=TermWeights(scale, 0.0, agreement)).rank(asked, k)
    np.testing.assert_array_equal(found.items, base.first(k).padded(k).items)


def test_every_row_of_a_run_is_its_base_at_weights_of_0(trained: Trained) -> None:
    zero = {"scale": 1.0, "popularity": 0.0, "agreement": 0.0}
    params = trained.params._replace(rankers=trained.params.rankers | dict.fromkeys(ROWS, zero))
    found = assemble(trained.rankers, FusionConfig(), params).rank(trained.batch(), 8)
    for base in BASES:
        np.testing.assert_array_equal(found[with_terms(base)].items, found[base].items)
    rows = assemble(trained.rankers, FusionConfig(), params._replace(rankers={})).rank(trained.batch(), 8)
    np.testing.assert_array_equal(rows[with_terms("sasrec")].items, rows["sasrec"].items)


BASES = RecommendConfig().terms
ROWS = tuple(map(with_terms, BASES))


def right_category(users: int) -> tuple[RankingBatch, IntArray]:
    """A base that lists all items at random; the generated item is a wrong one of the target's category."""
    codes = CODES.codes
    targets = np.flatnonzero(codes >= 0)[np.random.default_rng(3).integers(0, (codes >= 0).sum(), users)]
    generated = np.array([[next(i for i in range(ITEMS) if i != t and codes[i] == codes[t])] for t in targets])
    base = lists(4, users, ITEMS)
    ones = TopItems(generated, np.zeros((users, 1), np.float32))
    return requests(users, base=base, generative=ones), targets


def test_tuning_finds_out_that_the_generated_category_is_right() -> None:
    asked, targets = right_category(200)
    untuned = TermsRanker("base", COUNTS, CODES)
    tuned = untuned.tune(asked, targets)
    assert tuned.params["agreement"] > 0.5, "widened beyond the first values"
    assert tuned.params["scale"] == pytest.approx(common_scale(asked.rankings["base"]))
    before, after = (top_k_metrics(r.rank(asked, 10).items, targets, k=10).ndcg for r in (untuned, tuned))
    assert after > 1.5 * before


def test_tuning_finds_out_that_popular_items_are_taken() -> None:
    users, generator = 300, np.random.default_rng(5)
    targets = generator.choice(ITEMS, users, p=COUNTS**2 / (COUNTS**2).sum())
    asked = requests(users, base=lists(6, users, ITEMS), generative=lists(7, users, 5))
    tuned = TermsRanker("base", COUNTS, CODES).tune(asked, targets)
    assert tuned.params["popularity"] > 0.3
    assert abs(tuned.params["agreement"]) < tuned.params["popularity"]
    rare = TermsRanker("base", COUNTS, CODES).tune(asked, np.full(users, COUNTS.argmin()))
    assert rare.params["popularity"] < -0.1, "an item that is less popular may be the better one"
    assert "popularity" in rare.at_edge or rare.params["popularity"] > -1


def test_the_figure_of_the_tuning_is_the_best_of_its_grid() -> None:
    asked, targets = right_category(80)
    tuned = TermsRanker("base", COUNTS, CODES).tune(asked, targets)
    figures = {
        (p, a): top_k_metrics(
            tuned.with_params({**tuned.params, "popularity": p / 10, "agreement": a / 10}).rank(asked, 10).items,
            targets,
            k=10,
        ).ndcg
        for p in range(-1, 6)
        for a in range(-1, 6)
    }
    assert top_k_metrics(tuned.rank(asked, 10).items, targets, k=10).ndcg >= max(figures.values()) - 1e-9


@pytest.mark.parametrize(("codes", "reason"), [(None, "no categories"), (CODES, "no generated list")])
def test_what_agreement_needs_may_be_missing(
    codes: CategoryCodes | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked, targets = right_category(40)
    if codes is not None:
        del asked.rankings[GENERATIVE]
    with caplog.at_level(logging.INFO):
        tuned = TermsRanker("base", COUNTS, codes).tune(asked, targets)
    assert tuned.params["agreement"] is None
    assert [r.message for r in caplog.records] == [
        f"base-with-terms has no term of agreement: {'the catalogue has' if codes is None else 'there is'} {reason}"
    ]
    assert tuned.rank(asked, 5).items.shape == (40, 5)


def test_without_the_generated_list_a_tuned_row_does_without_agreement() -> None:
    asked = right_category(40)[0]
    row = TermsRanker("base", COUNTS, CODES, weights=TermWeights(2.0, 0.0, 3.0))
    assert not np.array_equal(row.rank(asked, 5).items, asked.rankings["base"].items[:, :5])
    del asked.rankings[GENERATIVE]
    assert np.array_equal(row.rank(asked, 5).items, asked.rankings["base"].items[:, :5])


def test_log_popularity_is_standardized() -> None:
    assert log_popularity(np.array([0, 3])) == pytest.approx([-1, 1])
    assert log_popularity(np.array([5, 5])).tolist() == [0, 0]


def test_category_probabilities_by_hand() -> None:
    generated = TopItems(np.array([[0, 2, -1], [-1, -1, -1]]), np.log(np.array([[0.6, 0.2, 1], [1, 1, 1]], np.float32)))
    found = category_log_probabilities(generated, CategoryCodes(np.array([0, 0, 1, -1]), 2))
    first = [0.9 * 0.75 + 0.05, 0.9 * 0.25 + 0.05]
    assert np.exp(found[0, :2]) == pytest.approx(first, rel=1e-5)
    assert found[0, 2] == pytest.approx(np.log(first).mean(), rel=1e-5)
    assert found[1] == pytest.approx([np.log(0.5)] * 3), "a user without a generated item agrees with everything alike"


def test_only_the_configured_rows_are_built_and_one_that_is_fused(trained: Trained) -> None:
    def built(config: RecommendConfig, names: tuple[str, ...] | None = None) -> list[str]:
        context = RankingContext.load(trained.folders, config, max_history=20, seed=0)
        return list(build_rankers(context, names))

    assert list(trained.rankers) == [*RANKERS, *ROWS]
    assert built(RecommendConfig(terms=())) == [*RANKERS]
    assert built(RecommendConfig(terms=("popularity", "sasrec"))) == [
        *RANKERS,
        "popularity-with-terms",
        "sasrec-with-terms",
    ]
    fused = FusionConfig(sources=("item-knn-with-terms",))
    assert built(RecommendConfig(terms=(), fusion=fused)) == [*RANKERS, "item-knn-with-terms"]
    assert built(RecommendConfig(), FusionConfig().sources) == [
        *("sasrec", "generative", "generative-item-scored", "cross-entropy", "diffusion"),
    ]
    assert built(RecommendConfig(), ("diffusion-with-terms",)) == ["generative", "diffusion", "diffusion-with-terms"]
    assert with_needed(["sasrec-with-terms", "nothing"]) == ["sasrec", "generative", "sasrec-with-terms"]


def test_a_row_whose_base_a_run_does_not_have_is_not_built(trained: Trained) -> None:
    folders = {name: folder for name, folder in trained.folders.items() if name != "finetune"}
    context = RankingContext.load(folders, RecommendConfig(), max_history=20, seed=0)
    own = ["popularity", "item-knn", "sasrec"]
    assert list(build_rankers(context)) == [*own, "item-knn-with-terms", "sasrec-with-terms"]


def test_a_row_may_be_fused_and_ranks_as_it_was_tuned(trained: Trained) -> None:
    config = FusionConfig(sources=("sasrec-with-terms", "generative"))
    rankers = build_rankers(trained.context, config.sources)
    users = TuningUsers({SEEN_LEFT_OUT: trained.batch()}, trained.users.targets)
    params = tune(rankers, users, users, config, served=SEEN_LEFT_OUT)
    assert params.fusions[SEEN_LEFT_OUT].weights.keys() == {"sasrec-with-terms", "generative"}
    found = assemble(rankers, config, params).rank(trained.batch(), 10)
    figure = top_k_metrics(found["sasrec-with-terms"].items, trained.users.targets, k=10).ndcg
    assert figure == pytest.approx(params.validation[SEEN_LEFT_OUT]["sasrec-with-terms"])
    undecoded: Ensemble = assemble(rankers, config, params).only(["sasrec", "sasrec-with-terms"])
    assert undecoded.answer == "sasrec-with-terms"
    assert (undecoded.rank(trained.batch(), 5)["sasrec-with-terms"].items[:, 0] >= 0).all()


def test_a_parameter_at_its_limit_is_logged_and_in_the_file(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    class AtTheLimit(TermsRanker):
        def tune(self, asked: RankingBatch, targets: IntArray) -> AtTheLimit:
            self.at_edge = ("popularity",)
            return self.with_params({"scale": 1.0, "popularity": 5.0, "agreement": 0.0})

    row = AtTheLimit("popularity", COUNTS, None)
    rankers = {"popularity": trained.rankers["popularity"], "popularity-with-terms": row}
    users = TuningUsers({SEEN_LEFT_OUT: trained.batch()}, trained.users.targets)
    params = tune(rankers, users, users, FusionConfig(sources=("popularity",)), served=SEEN_LEFT_OUT)
    assert params.at_edge == {"popularity-with-terms": ["popularity"]}
    assert "popularity-with-terms: the best popularity tried is the last one allowed" in caplog.text
    assert "(popularity=5)" in caplog.text
