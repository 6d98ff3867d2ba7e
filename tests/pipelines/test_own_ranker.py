"""A ranker of a user's own is one entry of the registry: it is fitted, ranked, fused, reported, bundled and served.

Here its row with terms is fused, which brings the ranker itself with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.bundling import bundle_run
from pipelines.config import stored_config
from pipelines.recommend import load_recommender
from recsys.artifacts import RunDirectory
from recsys.baselines.base import rank_by_scores
from recsys.errors import ConfigError
from recsys.files import read_json, write_json
from recsys.ranking.base import Ranker
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import RANKERS, RankerSpec, with_terms
from recsys.tables import FloatArray, TopItems
from serving.bundle.bundle import Bundle
from serving.engine.engine import BundleEngine
from serving.engine.interface import NewItem, Request
from tests.pipelines.finished import finished

pytestmark = pytest.mark.slow

NAME = "newest-first"
ROW = with_terms(NAME)
FUSED_SOURCES = f"recommend.fusion.sources=[generative, sasrec, {ROW}]"


class NewestFirst:
    """Ranks by when an item was last interacted with."""

    def __init__(self, scores: FloatArray) -> None:
        self._scores = scores

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        return rank_by_scores(
            lambda rows: np.tile(self._scores, (len(rows), 1)),
            len(batch),
            num_items=len(self._scores),
            k=k,
            candidates=batch.candidates,
        )


def fit(context: RankingContext, folder: Path) -> None:
    """Write the last training time of every item, as a rank."""
    frame = pl.read_parquet(context.folders["prepare"] / "interactions.parquet").filter(split=0)
    last = dict(frame.group_by("item_id").agg(pl.col("timestamp").max()).iter_rows())
    folder.mkdir()
    write_json(folder / "last.json", {item: last.get(item, 0) for item in context.items.catalog.item_ids})


def build(context: RankingContext) -> Ranker | None:
    """None where nothing was fitted; an item that was added later is the oldest."""
    folder = context.fitted(NAME)
    if folder is None:
        return None
    last = read_json(folder / "last.json")
    times = np.array([last.get(item, 0) for item in context.items.catalog.item_ids])
    return NewestFirst(np.argsort(np.argsort(times, kind="stable")).astype(np.float32))


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RANKERS, NAME, RankerSpec(build, fit))
        yield


@pytest.fixture(scope="module")
def own_run(registered: None) -> Iterator[RunDirectory]:
    with finished("tokenize.kind=discrete", FUSED_SOURCES) as directory:
        yield directory


@pytest.fixture(scope="module")
def own_bundle(own_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_run(own_run, stored_config(own_run), tmp_path_factory.mktemp("own") / "b")


def test_it_is_fitted_once_and_ranked_for_every_user(own_run: RunDirectory) -> None:
    folder = own_run.verified("recommend")
    assert (folder / "rankers" / NAME / "last.json").is_file()
    frame = pl.read_parquet(folder / "rankings.parquet")
    own, fused = (frame.filter(source=name, policy="seen-left-out") for name in (NAME, "fused"))
    assert own["user_id"].n_unique() == fused["user_id"].n_unique() > 50
    assert (own["rank"].max(), own["score"].min() >= 0) == (20, True)
    assert json.loads((folder / "timings.json").read_text(encoding="utf-8"))[NAME]["seconds"] >= 0


def test_it_is_fused(own_run: RunDirectory) -> None:
    chosen = json.loads((own_run.verified("recommend") / "fusion.json").read_text(encoding="utf-8"))
    for policy in ("seen-kept", "seen-left-out"):
        assert chosen["fusions"][policy]["weights"].keys() == {"generative", "sasrec", ROW}
        assert {NAME, ROW} <= chosen["validation"][policy].keys()
    assert chosen["rankers"][ROW].keys() == {"scale", "popularity", "agreement"}
    assert f"validation_{NAME.replace('-', '_')}" in own_run.existing_record("recommend").notes


def test_it_is_measured_and_reported(own_run: RunDirectory) -> None:
    folder = own_run.verified("evaluate")
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for policy in measured["policies"].values():
        assert all("ndcg@10" in policy["systems"][name]["metrics"] for name in (NAME, ROW))
    assert ROW in measured["fusion"]["fusions"]["seen-kept"]["weights"]
    assert ROW in (folder / "report.html").read_text(encoding="utf-8")


def test_its_files_are_bundled(own_run: RunDirectory, own_bundle: Bundle) -> None:
    fitted = own_run.verified("recommend") / "rankers" / NAME / "last.json"
    name = f"rankers/{NAME}/last.json"
    assert name in own_bundle.manifest.files
    assert (own_bundle.folder / name).read_bytes() == fitted.read_bytes()
    assert not [file for file in own_bundle.manifest.files if "item-knn" in file], "what is not served stays behind"


def test_it_is_served_with_its_score(own_run: RunDirectory, own_bundle: Bundle) -> None:
    engine = BundleEngine.load(own_bundle.folder)
    request = Request((), 10)
    answer = engine.recommend([request], "full")[0]
    assert any({NAME, ROW} <= item.source_scores.keys() for item in answer.items)
    assert {NAME, ROW} <= answer.seconds.keys()
    assert "item-knn-with-terms" not in answer.seconds, "rows that are not fused are not served"
    wanted = load_recommender(stored_config(own_run), own_run).recommend([request])[0]
    assert [item.item_id for item in answer.items] == [item.item_id for item in wanted.items]
    for item, same in zip(answer.items, wanted.items, strict=True):
        assert item.source_scores == pytest.approx(same.source_scores, abs=1e-4)
    undecoded = engine.recommend([request], "no-decoding")[0]
    assert all(item.source_scores.keys() <= {"sasrec", NAME, ROW} for item in undecoded.items)
    engine.add([NewItem("new", {"title": "Thing"})])
    assert engine.recommend([request], "full")[0].items


def test_where_it_is_not_registered_its_name_is_refused_before_anything_runs() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(RANKERS, NAME, raising=False)
        with pytest.raises(ConfigError, match=f"got '{ROW}'"), finished(FUSED_SOURCES):
            pass
