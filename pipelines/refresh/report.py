"""The refresh stage: the language model before and after, on users with new interactions and on the parent's.

Reads 01_dataset, 03_tokens, 05_language_model, and the parent's 01_dataset and 05_language_model; writes
`refresh.json`. The test items are looked at here for the first time, with the epoch chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.config import RunConfig
from pipelines.refresh.groups import Groups, group_tests
from pipelines.refresh.parent import parent_folder
from recsys.artifacts import StageRun
from recsys.data.dataset import Dataset
from recsys.data.extension import CARD
from recsys.evaluation.before_after import Change, Measured, changes
from recsys.files import write_json
from recsys.llm.storage import load_language_model
from recsys.metrics import FloatArray, target_ranks, top_k_per_user
from recsys.ranking.base import Ranker
from recsys.ranking.generative import GenerativeRanker
from recsys.ranking.item_scored import ItemScoredRanker
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import GENERATIVE, ITEM_SCORED
from recsys.tables import TEST, Queries, SemanticIds
from recsys.tracking import Tracker

REPORT, FORMAT, CUTOFF = "refresh.json", 1, 10
METRICS = (f"hr@{CUTOFF}", f"ndcg@{CUTOFF}")

Scores = dict[tuple[str, str, str], FloatArray]
"""Group, policy and source -> [metric, user]."""


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    parent = Dataset.load(parent_folder(config, "prepare"))
    semantic_ids = SemanticIds.load(run.read("tokenize/discrete") / "semantic_ids.parquet")
    groups = group_tests(dataset, parent, limit=config.refresh.report_users, seed=config.seed)
    folders = (parent_folder(config, "finetune"), run.read("finetune"))
    before, after = (
        _scores(config, _rankers(config, folder, semantic_ids), groups, (dataset, parent), tracker)
        for folder in folders
    )
    measured = [
        Measured(*cell, metric, values[number], after[cell][number])
        for cell, values in before.items()
        for number, metric in enumerate(METRICS)
    ]
    found = changes(measured, config.evaluate, seed=config.seed)
    trained = run.record("finetune")
    write_json(
        run.out / REPORT,
        {
            "format": FORMAT,
            "parent": None if config.parent is None else config.parent.model_dump(mode="json"),
            "data": dataset.card[CARD],
            "training": {**trained.notes, "seconds": trained.seconds},
            "num_resamples": config.evaluate.num_resamples,
            "changes": [_plain(change) for change in found],
        },
    )
    for change in found:
        tracker.log({f"refresh/{change.group}/{change.policy}/{change.source}/{change.metric}": change.after}, step=0)
    run.note(users_with_new=len(groups.new), users_of_parent=len(groups.old))


def _rankers(config: RunConfig, folder: Path, semantic_ids: SemanticIds) -> dict[str, Ranker]:
    model, wide = load_language_model(folder), config.recommend
    ranker = GenerativeRanker(model, semantic_ids, num_beams=wide.num_beams, batch_size=wide.batch_size)
    found: dict[str, Ranker] = {GENERATIVE: ranker}
    return found if model.items is None else found | {ITEM_SCORED: ItemScoredRanker(model, semantic_ids)}


def _scores(
    config: RunConfig, rankers: dict[str, Ranker], groups: Groups, datasets: tuple[Dataset, Dataset], tracker: Tracker
) -> Scores:
    """Of every group that has users."""
    found: Scores = {}
    for group, asked, dataset in zip(Groups._fields, groups, datasets, strict=True):
        if len(asked):
            ranked = _group_scores(rankers, asked, dataset, config.prepare.max_history, tracker)
            found |= {(group, policy, source): scores for policy, source, scores in ranked}
    return found


def _group_scores(
    rankers: dict[str, Ranker], asked: Queries, dataset: Dataset, max_history: int, tracker: Tracker
) -> Iterator[tuple[str, str, FloatArray]]:
    """Policy, source and scores [metric, user] of requests of a dataset."""
    dislikes = dataset.dislikes
    batches = RankingBatch.under_policies(
        asked.histories,
        max_history=max_history,
        excluded=None
        if dislikes is None
        else dislikes.before_targets(asked.user_ids, dataset.interactions, dataset.catalog, split=TEST),
        tracker=tracker,
    )
    for policy, batch in batches.items():
        for source, ranker in rankers.items():
            items = ranker.rank(batch, CUTOFF).items
            hr, ndcg, _ = top_k_per_user(target_ranks(items, asked.targets), k=CUTOFF)
            yield policy, source, np.stack([hr, ndcg])


def _plain(change: Change) -> dict[str, object]:
    difference = change.difference
    return change._asdict() | {"difference": [difference.value, difference.low, difference.high]}
