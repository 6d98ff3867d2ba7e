"""A run on a log of several event types: weights and dislikes reach every stage, its rankings and its bundle."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.bundling import bundle_run
from pipelines.commands import stored_config
from pipelines.recommend import load_recommender
from recsys.artifacts import RunDirectory
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories, user_history
from recsys.ranking.recommender import Request
from recsys.tables import POLICIES, TEST, Rankings
from serving.engine.engine import BundleEngine
from serving.engine.interface import Request as Asked
from tests.pipelines.finished import finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = (
    "prepare.min_interactions=2",
    "prepare.dislikes=rating <= 1",
    "prepare.where=event != 'search'",
    "prepare.event_column=event",
    "prepare.event_weights={view: 0.0, cart: 0.5, purchase: 1.0}",
    "finetune.items=tokens",
    "diffuse.joint=true",
    "diffuse.condition=continuous",
)


def write_log(folder: Path) -> None:
    """120 users with 8 events at each of 40 items' neighbourhoods, one dislike in ten."""
    generator = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,rating,event"]
    for user in range(120):
        start = int(generator.integers(40))
        for step in range(12):
            item = (start + step + int(generator.integers(3))) % 40
            event = ("view", "cart", "purchase", "search")[int(generator.integers(4))]
            rating = 1 if generator.random() < 0.15 else 5
            lines.append(f"u{user},i{item},{1_700_000_000 + 1000 * step},{rating},{event}")
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = [f"i{n},thing number {n}" for n in range(40)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *names]) + "\n", encoding="utf-8")
    (folder / "users.csv").write_text(
        "user_id,city\n" + "".join(f"u{n},c{n % 3}\n" for n in range(120)), encoding="utf-8"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDirectory]:
    source = tmp_path_factory.mktemp("log")
    write_log(source)
    with finished(f"prepare.source={source}", *SETTINGS) as directory:
        yield directory


def test_no_ranking_has_a_known_dislike(run: RunDirectory) -> None:
    dataset = Dataset.load(run.verified("prepare"))
    assert dataset.dislikes is not None
    assert dataset.users is not None
    assert len(dataset.users) == dataset.card["users"]
    targets = dataset.interactions.frame.filter(split=TEST).select("user_id", "item_id", limit="timestamp")
    assert targets.join(dataset.dislikes.frame, on=["user_id", "item_id"]).is_empty()
    known = dataset.dislikes.frame.join(targets.drop("item_id"), on="user_id").filter(
        pl.col("timestamp") < pl.col("limit")
    )
    assert len(known) > 30
    rankings = Rankings.load(run.verified("recommend") / "rankings.parquet")
    assert rankings.policies == list(POLICIES)
    assert rankings.frame.join(known, on=["user_id", "item_id"]).is_empty()
    listed = rankings.frame.group_by("policy").agg(pl.col("item_id").n_unique())["item_id"]
    assert (listed == len(dataset.catalog)).all(), "others get these items"


def test_a_user_of_the_run_gets_no_dislike(run: RunDirectory) -> None:
    dataset = Dataset.load(run.verified("prepare"))
    assert dataset.dislikes is not None
    recommender = load_recommender(stored_config(run), run)
    user, disliked = next(iter(dataset.dislikes.by_user().items()))
    history = user_history(dataset.interactions, user)
    for exclude_seen in (True, False):
        request = Request(history, len(dataset.catalog), user, exclude_seen=exclude_seen)
        found = {item.item_id for item in recommender.recommend([request])[0]}
        assert found
        assert not found & set(disliked)


def test_a_bundle_ranks_popular_items_by_weight(run: RunDirectory, tmp_path: Path) -> None:
    bundle = bundle_run(run, stored_config(run), tmp_path / "bundle")
    dataset = Dataset.load(run.verified("prepare"))
    training = training_histories(dataset.interactions, dataset.catalog)
    assert training.weights is not None
    expected = np.bincount(training.items, training.weights, minlength=len(dataset.catalog))
    engine = BundleEngine.load(bundle.folder)
    first = engine.recommend([Asked(k=5)], "popularity")[0].items
    best = np.sort(expected)[::-1][:5]
    assert [item.score for item in first] == pytest.approx(best.tolist(), rel=1e-5)
