"""The whole flow as one estimator: fits a dataset in memory, answers, survives its folder, is bundled and served."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import polars as pl
import pytest

import recsys
from pipelines import FOLDERS
from pipelines.bundling import bundle_run
from pipelines.config import stored_config
from pipelines.estimator import Recommender
from recsys.artifacts import RunDirectory
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.ranking.registry import with_terms
from recsys.tables import POLICIES, TRAIN, VALIDATION, Interactions
from serving.engine.engine import BundleEngine
from serving.engine.interface import Request
from tests.ranking.fakes import NUM_ITEMS, SCRATCH, cycle

TINY = {
    "embed": {
        "dimensions": 16,
        "sasrec": {"hidden_size": 8, "num_heads": 1, "num_layers": 1, "epochs": 2, "batch_tokens": 200},
    },
    "tokenize": {
        "kind": "discrete",
        "num_levels": 2,
        "codebook_size": 6,
        "latent_dim": 8,
        "epochs": 2,
        "batch_size": 12,
    },
    "finetune": {
        "scratch": SCRATCH.model_dump(),
        "training": {"epochs": 1, "batch_tokens": 512},
        "lora": {"epochs": 1, "batch_tokens": 512},
        "validation_users": 10,
    },
    "recommend": {"k": 10, "num_beams": 12, "tuning_users": 20, "fusion": {"grid": 4}},
}
HISTORY = ["item 1", "item 2", "item 3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("estimator") / "run"


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Recommender:
    """Not changed by any test."""
    return Recommender(TINY).fit(cycle(), folder=folder)


def test_it_is_on_the_public_surface() -> None:
    assert recsys.Recommender is Recommender


def test_a_history_is_answered(fitted: Recommender) -> None:
    found = fitted.recommend(HISTORY, k=4)
    assert len({item.item_id for item in found}) == len(found) == 4
    assert not {item.item_id for item in found} & set(HISTORY)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert fitted.recommend([*HISTORY[:1], "nothing", *HISTORY[1:]], k=4).items == found.items, (
        "unknown ids are ignored"
    )
    assert fitted.recommend([], k=3)
    assert repr(fitted) == "<Recommender (fitted)>"


def test_a_user_of_the_dataset_is_answered_by_the_whole_history(fitted: Recommender) -> None:
    history = [f"item {step}" for step in range(3, 10)]
    found = fitted.recommend(user_id="u3", k=5)
    assert [item.item_id for item in found] == [item.item_id for item in fitted.recommend(history, k=5)]
    assert not {item.item_id for item in found} & set(history)


def test_seen_items_come_back_only_on_request(fitted: Recommender) -> None:
    everything = fitted.recommend(HISTORY, k=50, exclude_seen=False)
    assert len(everything) == NUM_ITEMS
    assert len(fitted.recommend(HISTORY, k=50, exclude_seen=True)) == NUM_ITEMS - 3
    assert fitted.recommend(HISTORY, k=50) == fitted.recommend(HISTORY, k=50, exclude_seen=True), "no repeats here"


def test_every_test_user_is_ranked_by_every_source(fitted: Recommender) -> None:
    frame = fitted.rankings.frame
    own, terms = ["popularity", "item-knn", "sasrec", "generative"], ["item-knn", "sasrec", "generative"]
    assert fitted.rankings.sources == [*own, *map(with_terms, terms), "fused"]
    assert frame["user_id"].n_unique() == 60
    assert fitted.rankings.policies == [*POLICIES]


def test_what_is_saved_answers_the_same(fitted: Recommender, tmp_path: Path) -> None:
    fitted.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    for history in ([], HISTORY):
        assert loaded.recommend(history, k=5) == fitted.recommend(history, k=5)
    assert loaded.recommend(user_id="u3") == fitted.recommend(user_id="u3")
    assert loaded.rankings.frame.equals(fitted.rankings.frame)
    with pytest.raises(ConfigError, match="exists; choose a new folder"):
        fitted.save(tmp_path / "saved")


def test_a_second_fit_in_the_same_folder_makes_nothing_again(fitted: Recommender, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.parent != folder}
    again = Recommender(TINY).fit(cycle(), folder=folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.parent != folder} == before
    assert again.recommend(HISTORY) == fitted.recommend(HISTORY)


def test_errors_are_one_clear_line(fitted: Recommender, tmp_path: Path) -> None:
    wrong = [
        (DataError, "exactly one of history and user_id", lambda: fitted.recommend()),
        (DataError, "exactly one of history and user_id", lambda: fitted.recommend(HISTORY, user_id="u1")),
        (
            DataError,
            "user 'nobody' is not one of the 60 users of this dataset; ids are like 'u0', 'u1', 'u2'",
            lambda: fitted.recommend(user_id="nobody"),
        ),
        (DataError, "k=0", lambda: fitted.recommend(HISTORY, k=0)),
        (ConfigError, "is not fitted", lambda: Recommender(TINY).recommend(HISTORY)),
        (ConfigError, "is not fitted", lambda: Recommender(TINY).save(tmp_path / "nothing")),
        (ConfigError, "tokenize.levls", lambda: Recommender({"tokenize": {"levls": 2}})),
        (ArtifactError, "config.yaml", lambda: Recommender.load(tmp_path)),
        (
            ConfigError,
            r"recommend\.fusion\.sources: got 'sasrek'; did you mean 'sasrec'",
            lambda: Recommender({"recommend": {"fusion": {"sources": ["sasrek"]}}}).fit(cycle()),
        ),
    ]
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_a_discrete_run_fuses_its_sources_and_is_bundled_and_served(
    fitted: Recommender, folder: Path, tmp_path: Path
) -> None:
    run = RunDirectory(folder, FOLDERS)
    fusion = json.loads((run.verified("recommend") / "fusion.json").read_text(encoding="utf-8"))
    assert [fusion["fusions"][policy]["weights"].keys() for policy in POLICIES] == [{"generative", "sasrec"}] * 2
    assert fusion["rankers"].keys() == {with_terms(name) for name in ("item-knn", "sasrec", "generative")}
    made = bundle_run(run, stored_config(run), tmp_path / "bundle")
    engine = BundleEngine.load(made.folder)
    assert engine.tiers == ("full", "narrow", "no-decoding", "popularity")
    answer = engine.recommend([Request(tuple(HISTORY), 5)], "full")[0]
    wanted = fitted.recommend(HISTORY, k=5)
    assert [item.item_id for item in answer.items] == [item.item_id for item in wanted]
    assert all(item.source_scores.keys() == {"generative", "sasrec"} for item in answer.items)
    undecoded = engine.recommend([Request(tuple(HISTORY), 5)], "no-decoding")[0]
    assert all(item.source_scores.keys() == {"sasrec"} for item in undecoded.items)


def test_without_validation_users_it_warns_and_ranks(caplog: pytest.LogCaptureFixture) -> None:
    dataset = cycle()
    split = pl.when(pl.col("split") == VALIDATION).then(pl.lit(TRAIN, pl.Int8)).otherwise(pl.col("split"))
    unvalidated = Interactions(dataset.interactions.frame.with_columns(split.alias("split")))
    with caplog.at_level(logging.WARNING):
        fitted = Recommender(TINY).fit(Dataset(unvalidated, dataset.catalog, {}))
    assert "no validation users: rankers keep their defaults, and all sources weigh the same" in caplog.text
    assert fitted.rankings.sources[-1] == "fused"
    assert fitted.rankings.frame["user_id"].n_unique() == 60
    first = fitted.recommend(HISTORY, k=1)[0]
    assert first.source_scores.keys() == {"generative", "sasrec"}
