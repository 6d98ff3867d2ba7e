"""Fusion against a naive reference, and what must hold whatever the rankings are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.metrics import top_k_metrics
from recsys.ranking.config import FusionConfig, Method
from recsys.ranking.fusion import METHODS, Fusion, FusionTrial, tune_fusion, z_scores
from recsys.tables import TopItems

ITEMS = 12


def ranking(rows: list[list[tuple[int, float]]], width: int) -> TopItems:
    """Lists of (item, score), best first, as arrays with padding behind."""
    items = np.full((len(rows), width), -1, dtype=np.int64)
    scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
    for user, row in enumerate(rows):
        for rank, (item, score) in enumerate(row):
            items[user, rank], scores[user, rank] = item, score
    return TopItems(items, scores)


@st.composite
def rankings(draw: st.DrawFn, sources: int = 3) -> dict[str, TopItems]:
    users = draw(st.integers(1, 4))
    found = {}
    for number in range(sources):
        rows = []
        for _ in range(users):
            items = draw(st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=6))
            scores = sorted((float(draw(st.integers(-20, 20))) for _ in items), reverse=True)
            rows.append(list(zip(items, scores, strict=True)))
        found[f"s{number}"] = ranking(rows, 6)
    return found


def naive(given_: dict[str, TopItems], fusion: Fusion, user: int) -> list[int]:
    """The fused list of one user by the definition."""
    scores: dict[str, dict[int, float]] = {}
    for source, weight in fusion.weights.items():
        row = [(int(i), float(s)) for i, s in zip(*(a[user] for a in given_[source]), strict=True) if i >= 0]
        if weight == 0:
            continue
        values = np.array([s for _, s in row])
        spread = values.std() if len(row) else 0
        z = (values - values.mean()) / spread if spread > 1e-6 else np.zeros(len(row))
        ranks = np.arange(1, len(row) + 1)
        by_method = {
            "reciprocal-rank": 1 / (fusion.constant + ranks),
            "weighted-sum": z,
            "log-linear": (values - values.max(initial=-np.inf)) / fusion.scales.get(source, 1.0),
        }
        scores[source] = {item: float(x) for (item, _), x in zip(row, by_method[fusion.method], strict=True)}
    pool = sorted({item for values in scores.values() for item in values})
    least = {s: 0.0 if fusion.method == "reciprocal-rank" else min(v.values(), default=0.0) for s, v in scores.items()}
    total = {i: sum(fusion.weights[s] * v.get(i, least[s]) for s, v in scores.items()) for i in pool}
    return sorted(pool, key=lambda i: (-round(total[i], 9), i))


@settings(max_examples=60, deadline=None)
@given(rankings(), st.sampled_from(METHODS), st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any))
def test_fusing_equals_the_definition(given_: dict[str, TopItems], method: Method, weights: list[int]) -> None:
    fusion = Fusion(method, dict(zip(given_, map(float, weights), strict=True)), scales={"s0": 2.0, "s2": 0.5})
    fused = fusion.fuse(given_, k=ITEMS)
    for user in range(len(fused.items)):
        found = [int(i) for i in fused.items[user] if i >= 0]
        assert sorted(found) == sorted(naive(given_, fusion, user))
        scores = fused.scores[user, : len(found)]
        assert (np.diff(scores) <= 0).all()
        expected = naive(given_, fusion, user)
        # Sums that are equal on paper may differ in their last bits: only clear differences must agree.
        for rank, (a, b) in enumerate(zip(found, expected, strict=True)):
            if a != b:
                assert abs(scores[rank] - scores[found.index(b)]) < 1e-5


@settings(max_examples=40, deadline=None)
@given(rankings(), st.sampled_from(METHODS), st.integers(0, 2))
def test_the_whole_weight_on_one_source_gives_back_its_ranking(
    given_: dict[str, TopItems], method: Method, chosen: int
) -> None:
    source = list(given_)[chosen]
    fusion = Fusion(method, {name: float(name == source) for name in given_})
    fused = fusion.fuse(given_, k=6).items
    if method == "reciprocal-rank":
        assert np.array_equal(fused, given_[source].items)
    else:  # equal scores have no order of their own
        assert np.array_equal(np.sort(fused), np.sort(given_[source].items))


@settings(max_examples=30, deadline=None)
@given(rankings(sources=2), st.integers(0, 2**31))
def test_tuning_scores_each_setting_as_fusing_and_measuring_would(given_: dict[str, TopItems], seed: int) -> None:
    users = len(given_["s0"].items)
    targets = np.random.default_rng(seed).integers(0, ITEMS, users)
    trials = tune_fusion(given_, targets, FusionConfig(grid=4))
    assert len(trials) == 1 + 3 * 5
    assert [t.ndcg for t in trials[1:]] == sorted((t.ndcg for t in trials[1:]), reverse=True)
    assert trials[0].is_as_good_as(trials[1])
    for each in trials:
        measured = top_k_metrics(each.fusion.fuse(given_, k=10).items, targets, k=10).ndcg
        assert each.ndcg == pytest.approx(measured, abs=1e-6)


def test_tuning_finds_the_source_that_knows() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, ITEMS, 50)
    knows = ranking([[(int(t), 1.0)] for t in targets], 3)
    guesses = ranking([[(int(i), 1.0 - r) for r, i in enumerate(generator.permutation(ITEMS)[:3])] for _ in targets], 3)
    best = tune_fusion({"knows": knows, "guesses": guesses}, targets, FusionConfig())[0]
    assert best.ndcg == pytest.approx(1.0)
    assert best.fusion.weights["knows"] > best.fusion.weights["guesses"]
    assert Fusion.from_json(best.fusion.to_json()) == best.fusion


@pytest.mark.parametrize("method", METHODS)
def test_what_users_cannot_tell_apart_is_averaged(method: Method) -> None:
    targets = np.arange(5)
    alike = ranking([[(int(t), 1.0), (11, 0.0)] for t in targets], 2)
    trials = tune_fusion(dict.fromkeys("abcd", alike), targets, FusionConfig(grid=8, method=method))
    assert trials[0].fusion.weights == dict.fromkeys("abcd", 0.25)
    worse = ranking([[(10, 1.0), (int(t), 0.0)] for t in targets], 2)
    trials = tune_fusion({"a": alike, "worse": worse}, targets, FusionConfig(grid=8, method=method))
    assert trials[0].fusion.weights["a"] > 0.5
    assert trials[0].fusion.fuse({"a": alike, "worse": worse}, 1).items[:, 0].tolist() == targets.tolist()


def test_as_good_as_the_best_is_what_lies_within_one_standard_error() -> None:
    best = FusionTrial(Fusion("log-linear", {"a": 1.0}), np.full(50, 0.5), 100)
    noisy = best._replace(gains=np.where(np.arange(50) < 27, 0.0, 1.0))  # .02 behind, standard error .0354
    surely = best._replace(gains=np.full(50, 0.4))  # .05 behind, standard error .005
    assert noisy.is_as_good_as(best)
    assert best.is_as_good_as(best)
    assert not surely.is_as_good_as(best)
    barely = best._replace(gains=np.array([1.0, 0.0]), num_users=2)  # .45 ahead, standard error .389
    assert not barely._replace(gains=np.array([0.0, 0.1])).is_as_good_as(barely)


def test_one_scale_for_all_users_by_hand() -> None:
    given_ = {"a": ranking([[(0, 4.0), (1, 0.0)], [(2, 9.0), (3, 9.0)]], 2)}
    trials = tune_fusion(given_, np.array([1, 3]), FusionConfig(method="log-linear"))
    assert trials[0].fusion.scales == {"a": pytest.approx(np.std([0, -4, 0, 0]))}
    assert trials[0].fusion.fuse(given_, 2).scores.tolist() == [[0, pytest.approx(-4 / np.sqrt(3))], [0, 0]]


def test_z_scores_by_hand() -> None:
    found = z_scores(np.array([[3.0, 1.0, -np.inf], [2.0, 2.0, 2.0], [-np.inf] * 3], dtype=np.float32))
    assert found.tolist() == [[1.0, -1.0, -np.inf], [0.0, 0.0, 0.0], [-np.inf] * 3]


@pytest.mark.parametrize("weight", [1 / 3, 0.3, 0.07])
def test_items_that_are_tied_on_paper_are_tied_in_every_pool(weight: float) -> None:
    """Rank i of one source and j of the other is worth the same as j and i, alone and among any number of users.

    A matrix product rounds by the pool's width: tuning, which pools all users, would break such ties unlike serving.
    """
    depth = 20
    up = [(item, float(-rank)) for rank, item in enumerate(range(depth))]
    down = [(item, float(-rank)) for rank, item in enumerate(reversed(range(depth)))]
    fusion = Fusion("reciprocal-rank", {"a": weight, "b": weight})
    alone = fusion.fuse({"a": ranking([up], depth), "b": ranking([down], depth)}, depth)
    pairs = alone.items[0].reshape(-1, 2)
    assert (pairs.sum(axis=1) == depth - 1).all(), "tied items follow each other"
    assert (pairs[:, 0] < pairs[:, 1]).all(), "the smaller index first"
    for users in (2, 3, 7, 50):
        rows = {"a": ranking([up] * users, depth), "b": ranking([down] * users, depth)}
        together = fusion.fuse(rows, depth)
        assert (together.items == alone.items).all()
        targets = np.resize(np.arange(depth), users)
        config = FusionConfig(method="reciprocal-rank", grid=2)
        equal = next(t for t in tune_fusion(rows, targets, config)[1:] if t.fusion.weights == {"a": 0.5, "b": 0.5})
        served = np.array([np.flatnonzero(alone.items[0] == target)[0] for target in targets])
        assert equal.gains == pytest.approx(np.where(served < 10, 1 / np.log2(served + 2.0), 0))


def test_what_cannot_be_fused_is_refused() -> None:
    one, two = ranking([[(0, 1.0)]], 1), ranking([[(0, 1.0)], [(1, 1.0)]], 1)
    with pytest.raises(DataError, match="no ranking of b; there are a"):
        Fusion("reciprocal-rank", {"a": 0.5, "b": 0.5}).fuse({"a": one}, 3)
    with pytest.raises(DataError, match=r"rankings of \[1, 2\] users"):
        Fusion("reciprocal-rank", {"a": 0.5, "b": 0.5}).fuse({"a": one, "b": two}, 3)
    for targets in (np.zeros(1, np.int64), np.zeros(2, np.int64)):
        with pytest.raises(DataError, match=r"rankings of \[1, 2\] users"):
            tune_fusion({"a": one, "b": two}, targets, FusionConfig())
    with pytest.raises(DataError, match=r"rankings of \[1, 2\] users"):
        tune_fusion({"a": one}, np.zeros(2, np.int64), FusionConfig())
    with pytest.raises(DataError, match="there are none"):
        tune_fusion({"a": ranking([], 1)}, np.zeros(0, np.int64), FusionConfig())
    with pytest.raises(DataError, match="got scales of a; every source needs one"):
        Fusion.from_json({"method": "log-linear", "weights": {"a": 1.0, "b": 0}, "constant": 60, "scales": {"a": 1.0}})
    with pytest.raises(DataError, match="a method of"):
        Fusion.from_json({"method": "sum", "weights": {"a": 1.0}})
