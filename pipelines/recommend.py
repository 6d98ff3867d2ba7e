"""The recommend stage: every system ranks the catalogue for every test user.

Reads 01_dataset, 02_embeddings, 03_tokens and 05_language_model; writes `rankings.parquet` and `timings.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import polars as pl

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.baselines.base import Baseline
from recsys.baselines.itemknn import fit_item_knn
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec import Sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import queries, training_histories
from recsys.llm.storage import load_language_model
from recsys.recommender import GenerativeRanker, excludes_seen
from recsys.tables import TEST, Rankings, SemanticIds
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    # Whole histories: systems look at their newest items, and none of them may come back.
    everything = len(dataset.interactions)
    histories = queries(dataset.interactions, dataset.catalog, split=TEST, history=everything).histories
    exclude = excludes_seen(config.recommend.exclude_seen, dataset.interactions)
    frames: list[pl.DataFrame] = []
    timings: dict[str, dict[str, float]] = {}
    for name, system in _systems(config, run, dataset):
        started = time.perf_counter()
        found = system.rank(
            histories, k=config.recommend.k, exclude_seen=exclude, window=config.prepare.history, tracker=tracker
        )
        seconds = time.perf_counter() - started
        timings[name] = {"seconds": seconds, "ms_per_user": 1000 * seconds / max(len(histories), 1)}
        rankings = Rankings.from_arrays(
            histories.user_ids, found.items, found.scores, catalog=dataset.catalog, source=name
        )
        frames.append(rankings.frame)
    Rankings(pl.concat(frames)).save(run.out / "rankings.parquet")
    (run.out / "timings.json").write_text(json.dumps(timings, indent=2) + "\n", encoding="utf-8")
    run.note(users=len(histories), exclude_seen=exclude)


def _systems(config: RunConfig, run: StageRun, dataset: Dataset) -> Iterator[tuple[str, Baseline]]:
    """Every system by name, each loaded or fitted when its turn comes."""
    training = training_histories(dataset.interactions, dataset.catalog)
    num_items = len(dataset.catalog)
    yield "popularity", fit_popularity(training, num_items)
    yield "item-knn", fit_item_knn(training, num_items, neighbours=config.recommend.neighbours)
    embeddings = run.read("embed")
    if config.embed.collaborative:
        yield "sasrec", Sasrec.load(embeddings / "sasrec")
    yield (
        "generative",
        GenerativeRanker(
            load_language_model(run.read("finetune")),
            SemanticIds.load(run.read("tokenize/discrete") / "semantic_ids.parquet"),
            beams=config.recommend.beams,
            batch_size=config.recommend.batch_size,
        ),
    )
