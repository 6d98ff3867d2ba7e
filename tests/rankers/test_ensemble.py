"""Both routes on a circle of items whose next one is known: trained for real, ranked, fused, loaded from folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pytest

from recsys.baselines.base import TopItems
from recsys.data.histories import queries, training_histories
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.heads import QueryHead, fit_head
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.training import Run, fit_preference
from recsys.errors import ArtifactError
from recsys.fusion import CROSS_ENTROPY, DENSE, FUSED, GENERATIVE, SASREC, SOURCES, Fusion, FusionConfig
from recsys.llm.conditions import query_conditions, training_conditions
from recsys.llm.storage import load_language_model
from recsys.metrics import top_k_metrics
from recsys.rankers import generative
from recsys.rankers.collaborative import SASREC_FOLDER, CollaborativeRanker
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import FULL, Effort, Ensemble, Tuned
from recsys.rankers.generative import GenerativeRanker
from recsys.rankers.loading import Folders, load_ensemble
from recsys.rankers.permits import Permits
from recsys.rankers.preference import Agreement, Asked, PreferenceRanker
from recsys.rankers.validation import HeadValidator, interaction_counts, load_samples, save_samples
from recsys.recommender import Recommender
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.scoring import Scoring
from recsys.tables import VALIDATION, FloatArray, Histories, ItemVectors, Queries
from recsys.tracking import NullTracker
from tests.rankers.fakes import CODEBOOKS, CONFIG, NUM_ITEMS, cycle, ids, next_of, sasrec

DIFFUSE = DiffuseConfig(width=32, blocks=1, epochs=30, batch=64, learning_rate=5e-3, ema_decay=0.9, samples=8)
RECOMMEND = RecommendConfig(k=5, beams=12, nearest=4)


class Made(NamedTuple):
    folders: Folders
    ensemble: Ensemble
    tuned: Tuned
    regression: QueryHead
    validator: HeadValidator


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("run")
    folders = Folders(
        *(root / name for name in ("data", "embeddings", "discrete", "continuous", "model", "preference", "index"))
    )
    for folder in folders:
        folder.mkdir()
    dataset = cycle()
    dataset.save(folders.dataset)
    sasrec(dataset).save(folders.embeddings / SASREC_FOLDER)
    ids(dataset).save(folders.discrete / "semantic_ids.parquet")
    latents = np.random.default_rng(0).standard_normal((NUM_ITEMS, 6)).astype(np.float32)
    ItemVectors(dataset.catalog.item_ids, latents).save(folders.continuous / "latents.parquet")
    Recommender.fit(dataset, ids(dataset), CODEBOOKS, folder=folders.language_model, config=CONFIG)
    language_model = load_language_model(folders.language_model)
    training = training_histories(dataset.interactions, dataset.catalog)
    asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, history=20)
    counts = interaction_counts(training.items, NUM_ITEMS)
    validator = HeadValidator.sample(asked, latents, counts, users=30, exclude_seen=True, seed=0)
    conditions = training_conditions(language_model, ids(dataset), training, window=50)
    rows = conditions.states.numpy(), conditions.targets.numpy(), latents, DIFFUSE
    states = query_conditions(language_model, ids(dataset), validator.queries.histories, window=20).numpy()
    preference = fit_preference(*rows, seed=0, validate=lambda model: validator.preference(model, states))
    preference.save(folders.preference)
    regression = fit_head("regression", *rows, run=Run("regression", 0))
    fit_head("cross_entropy", *rows, run=Run("cross_entropy", 0)).save(folders.preference)
    save_samples(preference.sample(states, range(len(states)), seed=0, samples=2), folders.preference)
    ItemIndex.build(latents, queries=load_samples(folders.preference)).save(folders.item_index)
    ensemble = load_ensemble(folders, RECOMMEND, window=20, seed=0)
    tuned = ensemble.tune(asked, FusionConfig(), exclude_seen=True, tracker=NullTracker())
    return Made(folders, ensemble, tuned, regression, validator)


def test_every_ranking_knows_the_next_item(made: Made) -> None:
    histories, targets = made.validator.queries.histories, made.validator.queries.targets
    found = made.ensemble.rank(histories, histories.user_ids, made.tuned, k=5, permits=Permits.unseen(histories))
    assert list(found) == [GENERATIVE, DENSE, CROSS_ENTROPY, SASREC, FUSED]
    for name, ranking in found.items():
        assert top_k_metrics(ranking.items, targets, k=5).ndcg > 0.6, f"{name}: by chance it would be about .25"
    assert made.tuned.validation[FUSED] >= max(made.tuned.validation[name] for name in SOURCES) - 0.05


def test_seen_items_are_in_no_ranking(made: Made) -> None:
    histories = made.validator.queries.histories
    found = made.ensemble.rank(histories, histories.user_ids, made.tuned, k=8, permits=Permits.unseen(histories))
    for ranking in found.values():
        for user in range(len(histories)):
            assert not set(ranking.items[user]) & set(histories[user])
            kept = ranking.items[user][ranking.items[user] >= 0]
            assert len(set(kept.tolist())) == len(kept)


def test_the_same_request_gives_the_same_list_alone_and_among_others(made: Made) -> None:
    histories = made.validator.queries.histories
    together = made.ensemble.rank(histories, histories.user_ids, made.tuned, k=5, permits=Permits.unseen(histories))
    for user in (0, 7):
        one = histories.take(np.array([user]))
        alone = made.ensemble.rank(one, one.user_ids, made.tuned, k=5, permits=Permits.unseen(one))
        assert np.array_equal(alone[FUSED].items[0], together[FUSED].items[user])


@pytest.mark.parametrize("source", SOURCES)
def test_all_the_weight_on_one_part_gives_back_its_ranking(made: Made, source: str) -> None:
    histories = made.validator.queries.histories
    weights = {name: float(name == source) for name in SOURCES}
    tuned = made.tuned._replace(fusion=Fusion("reciprocal-rank", weights))
    found = made.ensemble.rank(histories, histories.user_ids, tuned, k=5, permits=Permits.unseen(histories))
    assert np.array_equal(found[FUSED].items, found[source].items[:, :5])


def test_without_collaborative_vectors_the_others_are_fused(made: Made, tmp_path: Path) -> None:
    ensemble = load_ensemble(made.folders._replace(embeddings=tmp_path), RECOMMEND, window=20, seed=0)
    queries_ = made.validator.queries
    tuned = ensemble.tune(queries_, FusionConfig(), exclude_seen=True, tracker=NullTracker())
    assert tuned.fusion.weights.keys() == {GENERATIVE, DENSE, CROSS_ENTROPY}
    found = ensemble.rank(queries_.histories, queries_.user_ids, made.tuned, k=5, permits=Permits())
    assert list(found) == [GENERATIVE, DENSE, CROSS_ENTROPY, FUSED]


def test_a_source_that_is_not_asked_for_is_not_there(made: Made) -> None:
    config = RECOMMEND.model_copy(update={"fusion": FusionConfig(sources=(GENERATIVE, DENSE))})
    ensemble = load_ensemble(made.folders, config, window=20, seed=0)
    histories = made.validator.queries.histories
    found = ensemble.rank(histories, histories.user_ids, made.tuned, k=5, permits=Permits())
    assert SASREC not in found


def test_sasrec_ranks_as_the_baseline_and_later_items_as_those_they_count_as() -> None:
    model = sasrec(cycle())
    histories = Histories.from_lists(["a", "b", "c"], [[3, 4, 5], [], [0, 1]])
    excluded = [histories[user] for user in range(3)]
    asked = Asked(np.zeros((3, 1), np.float32), [0] * 3, excluded)
    expected = model.rank(histories, k=6, exclude_seen=True, window=2)
    own = np.arange(NUM_ITEMS)
    found = CollaborativeRanker(model, lenders=own, window=2).rank(histories, asked, k=6)
    assert np.array_equal(found.items, expected.items)
    grown = CollaborativeRanker(model, lenders=np.append(own, [5, -1]), window=2)
    later = Histories.from_lists(["a", "b", "c"], [[3, 4, NUM_ITEMS, NUM_ITEMS + 1], [NUM_ITEMS + 1], [0, 1]])
    old = Asked(asked.states, asked.keys, excluded, np.arange(NUM_ITEMS + 2) < NUM_ITEMS)
    assert np.array_equal(grown.rank(later, old, k=6).items, expected.items)
    ranked = grown.rank(later, Asked(asked.states, asked.keys, None), k=NUM_ITEMS + 2)
    for user, items in enumerate(ranked.items.tolist()):
        scores = dict(zip(items, ranked.scores[user].tolist(), strict=True))
        alone = [scores[item] for item in range(NUM_ITEMS)]
        empty = user == 1  # it gets the most popular, and later ones are none of these
        assert scores[NUM_ITEMS] == (0 if empty else scores[5])
        assert scores[NUM_ITEMS + 1] == pytest.approx(0 if empty else np.mean(alone), abs=1e-5)


def test_sasrec_reads_the_newest_items_of_the_window_alone() -> None:
    model = sasrec(cycle())
    histories = Histories.from_lists(["a", "b"], [[7, 2, 4, 5], [9, 8, 11, 0]])
    asked = Asked(np.zeros((2, 1), np.float32), [0] * 2, None)
    scores = {}
    for window in (1, 2, 3):
        found = CollaborativeRanker(model, lenders=np.arange(NUM_ITEMS), window=window).rank(histories, asked, k=6)
        assert found.scores == pytest.approx(-np.sort(-model.scores(histories.last(window)))[:, :6], abs=1e-5)
        scores[window] = found.scores
    assert not np.allclose(scores[2], scores[3], atol=1e-3)
    assert not np.allclose(scores[1], scores[2], atol=1e-3)


def test_less_effort_searches_fewer_beams_and_none(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    histories, asked = made.validator.queries.histories, []
    search = generative.search_tree
    monkeypatch.setattr(
        generative, "search_tree", lambda tree, **more: asked.append(more["beams"]) or search(tree, **more)
    )
    for effort in (FULL, Effort(beams=3, samples=2), Effort(beams=0)):
        found = made.ensemble.rank(histories, histories.user_ids, made.tuned, k=5, permits=Permits(), effort=effort)
        assert (GENERATIVE in found) == (effort.beams != 0)
        assert (found[FUSED].items >= 0).all()
    assert asked == [50, 3]


def test_more_items_than_fusion_looks_at_are_ranked_when_asked_for(made: Made) -> None:
    histories = made.validator.queries.histories
    shallow = made.ensemble.rank(histories, histories.user_ids, made.tuned, k=NUM_ITEMS, permits=Permits())
    assert (shallow[FUSED].items >= 0).all()


def test_a_regression_ranks_by_the_nearest_latent(made: Made) -> None:
    queries_ = made.validator.queries
    asked = made.ensemble.ask(queries_.histories, queries_.user_ids, exclude_seen=True)
    ranked = made.ensemble.preference.rank_points(made.regression.predict(asked.states), asked.excluded, k=5)
    assert top_k_metrics(ranked.items, queries_.targets, k=5).ndcg > 0.8
    assert (np.diff(ranked.scores, axis=1) <= 0).all()


def test_a_head_is_judged_by_the_ndcg_of_its_ranking(made: Made) -> None:
    queries_ = made.validator.queries
    asked = made.ensemble.ask(queries_.histories, queries_.user_ids, exclude_seen=True)
    ranked = made.ensemble.classify(asked, k=10)
    expected = top_k_metrics(ranked.items, queries_.targets, k=10).ndcg
    head = QueryHead.load(made.folders.preference, "cross_entropy")
    assert made.validator.head(head, asked.states) == pytest.approx(expected)


def test_a_recommendation_names_its_sources(made: Made, tmp_path: Path) -> None:
    made.tuned.save(tmp_path / "fusion.json")
    recommender = Recommender.load_both(made.folders, tmp_path / "fusion.json", RECOMMEND)
    history = [f"item {i}" for i in (3, 4, 5, 6)]
    found = recommender.recommend(history, k=3, user="u3")
    assert found[0].item_id == next_of(history)
    assert found[0].sources.keys() == {*SOURCES, FUSED}
    assert found[0].score == found[0].sources[FUSED]
    assert recommender.recommend(history, k=3, user="u3") == found
    assert len(recommender.recommend([], k=3)) == 3


def test_what_was_tuned_survives_its_file_and_a_broken_one_is_refused(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "fusion.json"
    made.tuned.save(path)
    assert Tuned.load(path) == made.tuned
    for broken in ("{", "{}", '{"scoring": {}, "single": {}, "fusion": {}, "validation": {}}'):
        path.write_text(broken)
        with pytest.raises(ArtifactError, match=r"fusion\.json"):
            Tuned.load(path)


def test_agreement_needs_two_categories() -> None:
    assert Agreement.of_labels(None) is None
    assert Agreement.of_labels(["a", "a", None]) is None
    found = Agreement.of_labels(["b", None, "a"])
    assert found is not None
    assert (found.categories.tolist(), found.num_categories) == ([1, -1, 0], 2)


def test_requests_are_cut_as_a_whole() -> None:
    asked = Asked.of(np.zeros((3, 2), np.float32), ["a", "b", "a"], [np.array([u]) for u in range(3)])
    assert asked.keys[0] == asked.keys[2] != asked.keys[1]
    part = asked.take(slice(1, 3))
    assert (len(part), part.keys) == (2, asked.keys[1:])
    assert part.excluded is not None
    assert [e.tolist() for e in part.excluded] == [[1], [2]]
    assert Scoring(1.0).to_json() == {"bandwidth": 1.0, "popularity": 0.0, "agreement": 0.0}


class Fixed(NamedTuple):
    """Stands for the language model, the diffusion module and the cross-entropy head: none of them knows the item."""

    generated: TopItems

    def rank(self, histories: Histories, *, k: int, **_: object) -> TopItems:
        return self.generated

    def sample(self, states: FloatArray, keys: list[int], *, seed: int, samples: int | None) -> FloatArray:
        return np.zeros((len(states), samples or 4, 2), np.float32)

    def scores(self, states: FloatArray, latents: FloatArray) -> FloatArray:
        return np.zeros((len(states), len(latents)), np.float32)


def test_tuning_finds_out_that_the_generated_category_is_right() -> None:
    users, items = 20, 24
    angles = np.linspace(0, 2 * np.pi, items, endpoint=False)
    latents = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)  # all as far from every sample
    categories = np.arange(items) // 12
    targets = np.random.default_rng(0).permutation(items)[:users]
    wrong_item_of_the_right_category = np.where(targets % 12 == 11, targets - 1, targets + 1)[:, None]
    fixed = Fixed(TopItems(wrong_item_of_the_right_category, np.zeros((users, 1), np.float32)))
    preference = PreferenceRanker(
        cast(PreferenceModel, fixed),
        latents=latents,
        index=ItemIndex.build(latents, config=IndexConfig(kind="flat")),
        counts=np.ones(items, np.int64),
        agreement=Agreement(categories, 2),
        nearest=items,
        seed=0,
    )
    ensemble = Ensemble(
        cast(GenerativeRanker, fixed),
        preference,
        cast(QueryHead, fixed),
        conditions=lambda histories: np.zeros((len(histories), 1), np.float32),
        window=5,
        depth=items,
    )
    histories = Histories.from_lists([f"u{user}" for user in range(users)], [[] for _ in range(users)])
    tuned = ensemble.tune(Queries(histories, targets), FusionConfig(), exclude_seen=False, tracker=NullTracker())
    assert min(tuned.scoring.agreement, tuned.single.agreement) > 0
    assert tuned.validation[DENSE] == pytest.approx(tuned.validation["one sample"], abs=1e-6)
    assert tuned.validation[DENSE] > 1.5 * tuned.validation[CROSS_ENTROPY]
