"""Both routes on a circle of items whose next one is known: trained for real, ranked, tuned, fused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from recsys.data.histories import queries
from recsys.decoding import beam
from recsys.diffusion.preference import PreferenceModel
from recsys.errors import ArtifactError, DataError
from recsys.metrics import top_k_metrics
from recsys.ranking.base import Ranker, ReducibleRanker, ScoreRanker, TunableRanker
from recsys.ranking.config import FusionConfig
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.fusion import FUSED, Fusion
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.recommender import FittedRecommender, Request
from recsys.ranking.registry import RANKERS, build_rankers, with_terms
from recsys.ranking.stopwatch import Stopwatch
from recsys.ranking.tuning import FusionParams, TuningUsers, assemble, tune
from recsys.ranking.validation import INDEX_SAMPLES, HeadValidator, ValidationUsers
from recsys.tables import SEEN_LEFT_OUT, VALIDATION, CandidateFilter, Histories
from tests.ranking.fakes import NUM_ITEMS, cycle, next_of, sasrec
from tests.ranking.trained import RECOMMEND, Trained, batch

SOURCES = FusionConfig().sources
ROWS = [*RANKERS, *(with_terms(name) for name in RECOMMEND.terms)]


@pytest.fixture(scope="module")
def ensemble(trained: Trained) -> Ensemble:
    """Every ranker, and the fusion of the configured sources."""
    return assemble(trained.rankers, FusionConfig(), trained.params)


def tuned(rankers: Mapping[str, Ranker], trained: Trained, config: FusionConfig) -> FusionParams:
    """Under one policy alone, everything by the same users."""
    users = TuningUsers({SEEN_LEFT_OUT: trained.batch()}, trained.users.targets)
    return tune(rankers, users, users, config, served=SEEN_LEFT_OUT)


def test_every_ranking_knows_the_next_item(trained: Trained, ensemble: Ensemble) -> None:
    found, targets = ensemble.rank(trained.batch(), 5), trained.users.targets
    assert list(found) == [*ROWS, FUSED]
    for name, ranking in found.items():
        ndcg = top_k_metrics(ranking.items, targets, k=5).ndcg
        assert name.startswith(("popularity", "item-knn")) or ndcg > 0.6, f"{name}: by chance it would be about .25"
    validation = trained.params.validation[SEEN_LEFT_OUT]
    assert validation[FUSED] >= max(validation[name] for name in SOURCES) - 0.05


def test_rankings_are_timed_by_source(trained: Trained, ensemble: Ensemble) -> None:
    watch = Stopwatch()
    ensemble.rank(trained.batch(), 5, stopwatch=watch)
    assert list(watch.seconds) == [*ROWS, FUSED]
    assert min(watch.seconds.values()) > 0


def test_seen_items_are_in_no_ranking(trained: Trained, ensemble: Ensemble) -> None:
    histories = trained.users.histories
    for ranking in ensemble.rank(trained.batch(), 8).values():
        for user in range(len(histories)):
            assert not set(ranking.items[user]) & set(histories[user])
            kept = ranking.items[user][ranking.items[user] >= 0]
            assert len(set(kept.tolist())) == len(kept)


def test_the_same_request_gives_the_same_list_alone_and_among_others(trained: Trained, ensemble: Ensemble) -> None:
    together = ensemble.rank(trained.batch(), 5)
    for user in (0, 7):
        alone = ensemble.rank(batch(trained.users.histories.take(np.array([user]))), 5)
        assert np.array_equal(alone[FUSED].items[0], together[FUSED].items[user])


@pytest.mark.parametrize("source", SOURCES)
def test_all_the_weight_on_one_source_gives_back_its_ranking(trained: Trained, source: str) -> None:
    fusion = Fusion("reciprocal-rank", {name: float(name == source) for name in SOURCES})
    single = assemble(trained.rankers, FusionConfig(), trained.params._replace(fusions={SEEN_LEFT_OUT: fusion}))
    found = single.rank(trained.batch(), 5)
    assert np.array_equal(found[FUSED].items, found[source].items[:, :5])


def test_without_collaborative_vectors_the_others_are_fused(trained: Trained, tmp_path: Path) -> None:
    folders = trained.folders | {"embed": tmp_path}
    rankers = build_rankers(RankingContext.load(folders, RECOMMEND, max_history=20, seed=0), SOURCES)
    params = tuned(rankers, trained, FusionConfig())
    assert params.fusions[SEEN_LEFT_OUT].weights.keys() == {
        *("generative", "generative-item-scored", "diffusion", "cross-entropy"),
    }
    found = assemble(rankers, FusionConfig(), trained.params).rank(trained.batch(), 5)
    assert list(found) == ["generative", "generative-item-scored", "cross-entropy", "diffusion", FUSED], (
        "also with the weights of all"
    )


def test_a_source_that_is_not_configured_is_not_fused(trained: Trained) -> None:
    config = FusionConfig(sources=("generative", "diffusion"))
    params = tuned(trained.rankers, trained, config)
    assert params.fusions[SEEN_LEFT_OUT].weights.keys() == {"generative", "diffusion"}
    found = assemble(trained.rankers, config, params).rank(trained.batch(), 5)
    assert list(found) == [*ROWS, FUSED], "rankings of the others are there to be compared"


def test_one_source_alone_is_the_answer_and_not_fused(trained: Trained) -> None:
    config = FusionConfig(sources=("sasrec",))
    params = tuned(trained.rankers, trained, config)
    assert params.fusions == {}
    assert FUSED not in params.validation[SEEN_LEFT_OUT]
    single = assemble(trained.rankers, config, params)
    assert single.answer == "sasrec"
    assert FUSED not in single.rank(trained.batch(), 5)


def test_no_configured_source_is_one_clear_line(trained: Trained) -> None:
    with pytest.raises(DataError, match=r"fusion\.sources \(sasrec\) can be ranked by here; there are popularity"):
        assemble({"popularity": trained.rankers["popularity"]}, FusionConfig(sources=("sasrec",)), None)


def test_sasrec_ranks_as_the_model_and_later_items_as_their_proxies() -> None:
    model = sasrec(cycle())
    histories = Histories.from_lists(["a", "b", "c"], [[3, 4, 5], [], [0, 1]])
    expected = model.rank(histories.last(2), k=6, candidates=CandidateFilter.unseen(histories))
    requests = RankingBatch.build(histories, max_history=2)
    own = np.arange(NUM_ITEMS)
    assert np.array_equal(ScoreRanker(model, own).rank(requests, 6).items, expected.items)
    grown = ScoreRanker(model, np.append(own, [5, -1]))
    later = Histories.from_lists(["a", "b", "c"], [[3, 4, NUM_ITEMS, NUM_ITEMS + 1], [NUM_ITEMS + 1], [0, 1]])
    old = CandidateFilter(requests.candidates.excluded, np.arange(NUM_ITEMS + 2) < NUM_ITEMS)
    # The window of the last two: item 12 counts as item 5, item 13 as none.
    assert np.array_equal(
        grown.rank(RankingBatch.build(later, max_history=3, candidates=old), 6).items,
        ScoreRanker(model, own)
        .rank(
            RankingBatch.build(
                Histories.from_lists(["a", "b", "c"], [[4, 5], [], [0, 1]]),
                max_history=3,
                candidates=requests.candidates,
            ),
            6,
        )
        .items,
    )
    ranked = grown.rank(RankingBatch.build(later, max_history=3, exclude_seen=False), NUM_ITEMS + 2)
    for user, items in enumerate(ranked.items.tolist()):
        scores = dict(zip(items, ranked.scores[user].tolist(), strict=True))
        alone = [scores[item] for item in range(NUM_ITEMS)]
        empty = user == 1  # it gets the most popular, and later ones are none of these
        assert scores[NUM_ITEMS] == (0 if empty else scores[5])
        assert scores[NUM_ITEMS + 1] == pytest.approx(0 if empty else np.mean(alone), abs=1e-5)


def test_sasrec_reads_the_newest_items_of_the_window_alone() -> None:
    model = sasrec(cycle())
    histories = Histories.from_lists(["a", "b"], [[7, 2, 4, 5], [9, 8, 11, 0]])
    scores = {}
    for window in (1, 2, 3):
        requests = RankingBatch.build(histories, max_history=window, exclude_seen=False)
        found = ScoreRanker(model).rank(requests, 6)
        assert found.scores == pytest.approx(-np.sort(-model.scores(histories.last(window)))[:, :6], abs=1e-5)
        scores[window] = found.scores
    assert not np.allclose(scores[2], scores[3], atol=1e-3)
    assert not np.allclose(scores[1], scores[2], atol=1e-3)


def test_a_reduced_ensemble_searches_fewer_beams_and_draws_fewer_samples(
    trained: Trained, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams, samples = list[int](), list[int | None]()
    search, sample = beam.search_tree, PreferenceModel.sample
    monkeypatch.setattr(beam, "search_tree", lambda tree, **kw: beams.append(kw["beams"]) or search(tree, **kw))
    monkeypatch.setattr(
        PreferenceModel,
        "sample",
        lambda model, *a, **more: samples.append(more["num_samples"]) or sample(model, *a, **more),
    )
    undecoded = ensemble.only([source for source in ensemble.rankers if not source.startswith("generative")])
    for reduced in (ensemble, ensemble.reduced(), undecoded):
        found = reduced.rank(trained.batch(exclude_seen=False), 5)
        assert ("generative" in found) == (reduced is not undecoded)
        assert (found[FUSED].items >= 0).all()
    assert beams == [50, 10]
    assert samples == [1, None, 1, 8, 1, None]


def test_more_items_than_fusion_looks_at_are_ranked_when_requested(trained: Trained) -> None:
    shallow = assemble(trained.rankers, FusionConfig(depth=2), trained.params)
    found = shallow.rank(trained.batch(exclude_seen=False), NUM_ITEMS)
    assert (found[FUSED].items >= 0).all()


def test_a_regression_ranks_by_the_nearest_latent(trained: Trained) -> None:
    ranked = trained.rankers["regression"].rank(trained.batch(), 5)
    assert top_k_metrics(ranked.items, trained.users.targets, k=5).ndcg > 0.8
    assert (np.diff(ranked.scores, axis=1) <= 0).all()


def test_a_head_is_validated_by_the_ranking_that_it_will_give(trained: Trained) -> None:
    context, users = trained.context, ValidationUsers(trained.users, exclude_seen=True)
    head, conditions, latents = context.models.head("cross_entropy"), context.conditions, context.items.latents
    assert head is not None
    assert conditions is not None
    assert latents is not None
    found = HeadValidator(users, latents, seed=0).head(head, conditions(trained.batch()))
    assert found == pytest.approx(users.ndcg(trained.rankers["cross-entropy"]))


def test_an_index_is_tuned_on_a_few_samples_of_every_user(trained: Trained) -> None:
    context, users = trained.context, ValidationUsers(trained.users, exclude_seen=True)
    preference, conditions, latents = context.models.preference, context.conditions, context.items.latents
    assert preference is not None
    assert conditions is not None
    assert latents is not None
    validator = HeadValidator(users, latents, seed=3)
    samples = validator.index_samples(preference, conditions(trained.batch()))
    assert samples.shape == (len(trained.users) * INDEX_SAMPLES, latents.shape[1])
    assert len(np.unique(samples, axis=0)) == len(samples)


def test_a_recommendation_names_the_score_of_each_source(trained: Trained) -> None:
    fused = assemble({name: trained.rankers[name] for name in SOURCES}, FusionConfig(), trained.params)
    recommender = FittedRecommender(cycle().catalog, fused, max_history=20, exclude_seen=True)
    history = tuple(f"item {i}" for i in (3, 4, 5, 6))
    answer = recommender.recommend([Request(history, 3, "u3")])[0]
    first = answer.items[0]
    assert first.item_id == next_of(list(history))
    assert first.source_scores.keys() == {*SOURCES}
    assert answer.seconds.keys() == {*SOURCES, FUSED}
    assert recommender.recommend([Request(history, 3, "u3")])[0].items == answer.items
    assert len(recommender.recommend([Request((), 3)])[0].items) == 3


def test_what_was_tuned_survives_its_file_and_a_broken_one_is_refused(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "fusion.json"
    trained.params.save(path)
    assert json.loads(path.read_text()).keys() == {"rankers", "fusions", "validation", "at_edge"}
    assert trained.params.rankers.keys() == {"diffusion-one-sample", "diffusion", *map(with_terms, RECOMMEND.terms)}
    assert FusionParams.load(path) == trained.params
    alone = trained.params._replace(fusions={})
    alone.save(path)
    assert FusionParams.load(path) == alone
    for broken in ("{", "{}", '{"rankers": {}, "fusions": {"seen-kept": {}}, "validation": {}}'):
        path.write_text(broken)
        with pytest.raises(ArtifactError, match=r"fusion\.json"):
            FusionParams.load(path)
    for params in ({"width": 3}, {"bandwidth": 0.5, "popularity": 0.1, "agreement": 2.0}):
        foreign = trained.params._replace(rankers={"diffusion": params})
        with pytest.raises(ArtifactError, match=r"are no parameters of 'diffusion'.*run `recommend` again"):
            assemble(trained.rankers, FusionConfig(), foreign)


def test_tuned_parameters_reach_their_ranker(trained: Trained) -> None:
    chosen = {"bandwidth": 0.25}
    params = trained.params._replace(rankers={"diffusion": chosen})
    applied = params.apply(trained.rankers)
    for name in ("diffusion", "diffusion-one-sample"):
        tunable = applied[name]
        assert isinstance(tunable, TunableRanker)
        assert (tunable.params == chosen) == (name == "diffusion")
    assert isinstance(trained.rankers["diffusion"], ReducibleRanker)


def test_the_tuning_of_all_validation_users_is_what_is_served(trained: Trained) -> None:
    """Each figure of the file is that of ranking with what the file holds."""
    dataset = cycle()
    users = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=20)
    found = assemble(trained.rankers, FusionConfig(), trained.params).rank(batch(users.histories), 10)
    for name, ranking in found.items():
        ndcg = top_k_metrics(ranking.items, users.targets, k=10).ndcg
        assert ndcg == pytest.approx(trained.params.validation[SEEN_LEFT_OUT][name], abs=1e-6), name
