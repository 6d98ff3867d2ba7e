"""Two policies at once: what both need is computed once, and each ranking is what it would be alone, bit by bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from recsys.baselines.sasrec import Sasrec
from recsys.data.histories import queries
from recsys.decoding import beam
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.metrics import top_k_metrics
from recsys.ranking.config import FusionConfig
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.fusion import FUSED, Fusion
from recsys.ranking.query import RankingBatch
from recsys.ranking.recommender import FittedRecommender, Request
from recsys.ranking.tuning import TuningUsers, assemble, tune
from recsys.tables import POLICIES, SEEN_KEPT, SEEN_LEFT_OUT, VALIDATION, Histories, Policy
from tests.ranking.fakes import cycle
from tests.ranking.trained import Trained, batch

SOURCES = FusionConfig().sources


@pytest.fixture(scope="module")
def ensemble(trained: Trained) -> Ensemble:
    return assemble(trained.rankers, FusionConfig(), trained.params)


def together(histories: Histories) -> dict[Policy, RankingBatch]:
    return RankingBatch.under_policies(histories, max_history=20)


@pytest.mark.parametrize("order", [POLICIES, POLICIES[::-1]])
def test_each_policy_is_ranked_as_it_would_be_alone(
    trained: Trained, ensemble: Ensemble, order: tuple[Policy, ...]
) -> None:
    histories = trained.users.histories
    batches = together(histories)
    found = {policy: ensemble.rank(batches[policy], 5) for policy in order}
    for policy, rankings in found.items():
        alone = ensemble.rank(batch(histories, exclude_seen=policy == SEEN_LEFT_OUT), 5)
        assert list(rankings) == list(alone)
        for name, ranking in rankings.items():
            assert np.array_equal(ranking.items, alone[name].items), (policy, name)
            assert ranking.scores.tobytes() == alone[name].scores.tobytes(), (policy, name)
    kept, left_out = (found[policy][FUSED].items for policy in POLICIES)
    assert not np.array_equal(kept, left_out)


def test_what_does_not_depend_on_the_policy_is_computed_once(
    trained: Trained, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        before = getattr(owner, name)

        def counted(*args: Any, **more: Any) -> Any:
            calls[f"{owner.__name__}.{name}"] += 1
            return before(*args, **more)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in (
        (beam, "Tree"),
        (beam, "search_tree"),
        (Sasrec, "scores"),
        (PreferenceModel, "sample"),
        (QueryHead, "predict"),
        (QueryHead, "scores"),
    ):
        count(owner, name)
    alone, both = Counter[str](), Counter[str]()
    for policies, found in (((SEEN_LEFT_OUT,), alone), (POLICIES, both)):
        calls.clear()
        made = RankingBatch.under_policies(trained.users.histories, max_history=20, policies=policies)
        for requests in made.values():
            ensemble.rank(requests, 5)
        found.update(calls)
    search = "recsys.decoding.beam.search_tree"
    assert len(alone) == 6
    assert both - Counter({search: alone[search]}) == alone, "only the constrained search is made for each policy"


def test_policies_share_no_rankings(trained: Trained) -> None:
    kept, left_out = together(trained.users.histories).values()
    kept.rankings["sasrec"] = trained.rankers["sasrec"].rank(kept, 5)
    assert left_out.rankings == {}
    assert (kept.policy, left_out.policy) == POLICIES
    assert kept.candidates.excluded is None
    assert left_out.candidates.excluded is not None


def test_weights_are_tuned_for_each_policy_and_rankers_under_the_served_one(trained: Trained) -> None:
    dataset = cycle()
    users = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=20)
    both = TuningUsers.of(users, max_history=20)
    found = {served: tune(trained.rankers, both, both, FusionConfig(), served=served) for served in POLICIES}
    assert found[SEEN_LEFT_OUT] == trained.params
    for served, params in found.items():
        one = TuningUsers({served: batch(users.histories, exclude_seen=served == SEEN_LEFT_OUT)}, users.targets)
        alone = tune(trained.rankers, one, one, FusionConfig(), served=served)
        assert params.rankers == alone.rankers
        assert params.fusions[served] == alone.fusions[served]
        assert params.fusions.keys() == params.validation.keys() == {*POLICIES}
        ensemble = assemble(trained.rankers, FusionConfig(), params)
        for policy, requests in together(users.histories).items():
            ranked = ensemble.rank(requests, 10)
            for name, ndcg in params.validation[policy].items():
                again = top_k_metrics(ranked[name].items, users.targets, k=10).ndcg
                assert again == pytest.approx(ndcg, abs=1e-6), (served, policy, name)


def test_a_request_gets_the_weights_of_its_own_policy(trained: Trained) -> None:
    def alone(source: str) -> Fusion:
        return Fusion("reciprocal-rank", {name: float(name == source) for name in SOURCES})

    fusions = {SEEN_KEPT: alone("sasrec"), SEEN_LEFT_OUT: alone("generative")}
    rankers = {name: trained.rankers[name] for name in SOURCES}
    fused = assemble(rankers, FusionConfig(), trained.params._replace(fusions=fusions))
    recommender = FittedRecommender(cycle().catalog, fused, max_history=20, exclude_seen=True)
    history = ("item 3", "item 4", "item 5")
    asked = [Request(history, 8, "u", exclude_seen=seen) for seen in (None, False, True)]
    default, kept, left_out = recommender.recommend(asked)
    known = Histories.from_lists(["u"], [[3, 4, 5]])
    for answer, source, exclude_seen in ((kept, "sasrec", False), (left_out, "generative", True)):
        wanted = trained.rankers[source].rank(batch(known, exclude_seen=exclude_seen), 8).items[0]
        assert [item.item_id for item in answer.items] == [f"item {item}" for item in wanted if item >= 0]
    for item, same in zip(default.items, left_out.items, strict=True):  # other rows of a batch round other last bits
        assert (item.item_id, item.score) == (same.item_id, same.score)
        assert item.source_scores == pytest.approx(same.source_scores, rel=1e-5)
