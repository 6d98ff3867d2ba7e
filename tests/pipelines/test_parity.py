"""What is measured is what is served: the stage, `recsys query` and the endpoint's engine rank one run alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipelines.recommend import load_recommender
from recsys.artifacts import RunDirectory
from recsys.data.dataset import Dataset
from recsys.data.histories import queries
from recsys.ranking.recommender import Answer
from recsys.tables import TEST
from serving.bundle.bundle import Bundle
from serving.engine.engine import BundleEngine
from serving.engine.interface import Request
from tests.pipelines.finished import configured

K = 20  # what the run's recommend stage writes
SOURCES = ("generative", "diffusion", "cross-entropy", "sasrec")


@pytest.fixture(scope="module")
def requests(run: RunDirectory) -> list[Request]:
    """Those of the test users."""
    dataset = Dataset.load(run.verified("prepare"))
    users = queries(dataset.interactions, dataset.catalog, split=TEST, max_history=len(dataset.interactions))
    ids = dataset.catalog.item_ids
    histories = [tuple(ids[item] for item in users.histories[row]) for row in range(len(users))]
    return [Request(history, K, user) for history, user in zip(histories, users.user_ids, strict=True)]


@pytest.fixture(scope="module")
def queried(run: RunDirectory, requests: list[Request]) -> list[Answer]:
    """Their answers as `recsys query` gives them."""
    return load_recommender(configured(), run).recommend(requests)


def compare(answers: Sequence[Answer], others: Sequence[Answer]) -> None:
    """The same items with the same scores, in all and of each source."""
    assert len(answers) == len(others) > 50
    for answer, other in zip(answers, others, strict=True):
        assert [item.item_id for item in answer.items] == [item.item_id for item in other.items]
        np.testing.assert_allclose([i.score for i in answer.items], [i.score for i in other.items], atol=1e-5)
        for item, same in zip(answer.items, other.items, strict=True):
            assert item.source_scores == pytest.approx(same.source_scores, abs=1e-5, rel=1e-5)


def test_the_stage_and_the_query_command_rank_alike(
    run: RunDirectory, requests: list[Request], queried: list[Answer]
) -> None:
    every = pl.read_parquet(run.verified("recommend") / "rankings.parquet")
    frame = every.filter(policy="seen-left-out")
    assert frame["source"].unique(maintain_order=True).to_list() == [
        "popularity",
        "item-knn",
        "sasrec",
        "generative",
        "generative-item-scored",
        "regression",
        "cross-entropy",
        "diffusion-one-sample",
        "diffusion",
        "item-knn-with-terms",
        "sasrec-with-terms",
        "generative-with-terms",
        "generative-item-scored-with-terms",
        "regression-with-terms",
        "cross-entropy-with-terms",
        "diffusion-with-terms",
        "fused",
    ]
    fused = frame.filter(source="fused").partition_by("user_id", as_dict=True)
    others = {name: frame.filter(source=name) for name in SOURCES}
    for request, answer in zip(requests, queried, strict=True):
        ranked = fused[(request.user,)]
        assert [item.item_id for item in answer.items] == ranked["item_id"].to_list()
        np.testing.assert_allclose([item.score for item in answer.items], ranked["score"], atol=1e-5)
    for name in SOURCES:
        first = others[name].filter(pl.col("user_id") == requests[0].user)
        written = dict(zip(first["item_id"], first["score"], strict=True))
        for item in queried[0].items:
            if item.item_id in written:
                assert item.source_scores[name] == pytest.approx(written[item.item_id], abs=1e-5, rel=1e-5)


def test_a_request_under_the_other_policy_gets_its_rows(run: RunDirectory, requests: list[Request]) -> None:
    frame = pl.read_parquet(run.verified("recommend") / "rankings.parquet")
    kept = frame.filter(source="fused", policy="seen-kept").partition_by("user_id", as_dict=True)
    answers = load_recommender(configured(), run).recommend([replace(r, exclude_seen=False) for r in requests])
    seen = 0
    for request, answer in zip(requests, answers, strict=True):
        ranked = kept[(request.user,)]
        assert [item.item_id for item in answer.items] == ranked["item_id"].to_list()
        np.testing.assert_allclose([item.score for item in answer.items], ranked["score"], atol=1e-5)
        seen += len(set(request.history) & set(ranked["item_id"]))
    assert seen > 50


def test_the_query_command_and_the_endpoint_rank_alike(
    bundle: Bundle, requests: list[Request], queried: list[Answer]
) -> None:
    compare(BundleEngine.load(bundle.folder).recommend(requests, "full"), queried)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_other_histories_too(run: RunDirectory, bundle: Bundle, size: int) -> None:
    ids = pl.read_parquet(bundle.folder / "catalog.parquet")["item_id"].to_list()
    request = Request((*ids[5 : 5 + size], "nothing"), 10, "somebody")
    wanted = load_recommender(configured(), run).recommend([request])[0]
    found = BundleEngine.load(bundle.folder).recommend([request], "full")[0]
    assert found.notices == wanted.notices
    assert found.notices[0].item_ids == ("nothing",)
    assert [item.item_id for item in found.items] == [item.item_id for item in wanted.items]
    np.testing.assert_allclose([i.score for i in found.items], [i.score for i in wanted.items], atol=1e-5)
