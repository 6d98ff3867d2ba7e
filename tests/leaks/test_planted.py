"""Leaks that are planted one by one, each of which the comparison of the battery has to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

import pipelines.diffuse
import pipelines.embed
import pipelines.finetune
import pipelines.instruct
import pipelines.recommend
import pipelines.tokenize
from recsys.artifacts import RunDirectory
from recsys.baselines import sasrec_training
from recsys.baselines.sasrec import Sasrec
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.data.histories import interaction_counts, queries, training_histories
from recsys.data.policy import ServedPolicy
from recsys.data.purposes import Purpose, users_for
from recsys.ranking import loading
from recsys.ranking.loading import RankingContext
from recsys.tables import TEST, TRAIN, Catalog, FloatArray, Histories, Interactions, ItemVectors, Queries
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.inputs import combine
from tests.leaks.battery import counted, dataset_of, different, output

Plant = Callable[[pytest.MonkeyPatch, RunDirectory], None]
"""Changes the code that makes a run, so that a split reaches where it must not."""


def as_training(interactions: Interactions) -> Interactions:
    """Every row as one of the training."""
    return Interactions(interactions.frame.with_columns(pl.lit(TRAIN, pl.Int8).alias("split")))


def all_histories(interactions: Interactions, catalog: Catalog) -> Histories:
    return training_histories(as_training(interactions), catalog)


def queries_of_test(interactions: Interactions, catalog: Catalog, *, split: int, max_history: int) -> Queries:
    return queries(interactions, catalog, split=TEST, max_history=max_history)


def histories_with_targets(interactions: Interactions, catalog: Catalog, *, split: int, max_history: int) -> Queries:
    asked = queries(interactions, catalog, split=split, max_history=max_history)
    longer = [np.append(asked.histories[user], target) for user, target in enumerate(asked.targets)]
    return Queries(Histories.from_lists(asked.user_ids, longer), asked.targets)


def replaced(target: Any, name: str, leak: object) -> Plant:
    """A function, by one that leaks."""
    return lambda patch, run: patch.setattr(target, name, leak)


def vectors_of_the_best_epoch(patch: pytest.MonkeyPatch, run: RunDirectory) -> None:
    """Of the epoch that ranks, which is the first or the last, as validation has it."""

    def leak(*args: Any, **options: Any) -> Sasrec:
        sasrec = fit_sasrec(*args, **options)
        return replace(sasrec, vectors=sasrec.model.items.weight.detach().numpy())

    calls = iter(range(1000))
    patch.setattr(sasrec_training, "_ndcg", lambda _, asked, *rest: next(calls) * (-1.0) ** int(asked.targets[1]))
    patch.setattr(pipelines.embed, "fit_sasrec", leak)


def popularity_in_the_vectors(patch: pytest.MonkeyPatch, run: RunDirectory) -> None:
    dataset = dataset_of(run)
    counts = interaction_counts(all_histories(dataset.interactions, dataset.catalog).items, len(dataset.catalog))

    def leak(text: ItemVectors, behaviour: ItemVectors | None, config: TokenizeConfig) -> tuple[FloatArray, float]:
        column = counts[:, None].astype(np.float32)
        return combine(ItemVectors(text.item_ids, np.hstack([text.vectors, column])), behaviour, config)

    patch.setattr(pipelines.tokenize, "combine", leak)


def chosen_on_test(chosen: Purpose) -> Plant:
    """What one purpose's users choose is chosen for their test items."""

    def plant(patch: pytest.MonkeyPatch, run: RunDirectory) -> None:
        dataset = dataset_of(run)
        of_test = queries(dataset.interactions, dataset.catalog, split=TEST, max_history=50)

        def leak(purpose: Purpose, asked: Queries, **options: Any) -> Queries:
            return users_for(purpose, of_test if purpose == chosen else asked, **options)

        patch.setattr(pipelines.recommend, "users_for", leak)
        patch.setattr(pipelines.recommend, "user_partitions", lambda *_, **__: [])  # ranking for nobody takes no time

    return plant


def all_rows_of_a_run(context: RankingContext) -> Histories:
    dataset = loading.Dataset.load(context.folders["prepare"])
    return all_histories(dataset.interactions, dataset.catalog)


def policy_of_all_rows(setting: Any, interactions: Interactions, **options: Any) -> ServedPolicy:
    return choose(setting, as_training(interactions), **options)


choose = ServedPolicy.choose


class Leak(NamedTuple):
    """Where it is planted, and a file of the stage that it has to be found in."""

    stage: str
    plant: Plant
    file: str
    other: str = "other_test"


LEAKS = {
    "test rows train SASRec": Leak(
        "embed", replaced(pipelines.embed, "training_histories", all_histories), "sasrec/sasrec.safetensors"
    ),
    "test rows reach the collaborative vectors": Leak(
        "embed", replaced(pipelines.embed, "training_histories", all_histories), "collaborative.parquet"
    ),
    "validation chooses the collaborative vectors": Leak(
        "embed", vectors_of_the_best_epoch, "collaborative.parquet", "other_validation"
    ),
    "SASRec's epoch is chosen on test": Leak(
        "embed", replaced(pipelines.embed, "queries", queries_of_test), "training_log.jsonl"
    ),
    "test rows reach the tokenizer": Leak("tokenize", popularity_in_the_vectors, "discrete/tokenizer.safetensors"),
    "test rows reach the quality of tokens": Leak(
        "tokenize", replaced(pipelines.tokenize, "training_histories", all_histories), "discrete/token_quality.json"
    ),
    "test rows become instructions": Leak(
        "instruct", replaced(pipelines.instruct, "training_histories", all_histories), "instructions.parquet"
    ),
    "the language model's epoch is chosen on test": Leak(
        "finetune", replaced(pipelines.finetune, "queries", queries_of_test), "training_log.jsonl"
    ),
    "test rows train the heads": Leak(
        "diffuse", replaced(pipelines.diffuse, "training_histories", all_histories), "preference.safetensors"
    ),
    "the heads' epochs are chosen on test": Leak(
        "diffuse", replaced(pipelines.diffuse, "queries", queries_of_test), "training_log.jsonl"
    ),
    "scoring is tuned on test": Leak("recommend", chosen_on_test("scoring"), "fusion.json"),
    "fusion is tuned on test": Leak("recommend", chosen_on_test("fusion"), "fusion.json"),
    "histories hold their targets": Leak(
        "recommend", replaced(pipelines.recommend, "queries", histories_with_targets), "rankings.parquet"
    ),
}
COUNTED = {
    "test rows are popular": (replaced(loading, "training_histories", all_histories), "popularity"),
    "test rows are neighbours": (
        replaced(RankingContext, "training_histories", all_rows_of_a_run),
        "item_knn.safetensors",
    ),
    "all rows decide the served policy": (
        replaced(ServedPolicy, "choose", staticmethod(policy_of_all_rows)),
        "served.json",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_into_a_stage_is_found(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak, found = LEAKS[name], []
    for fixture in ("run", leak.other):
        directory: RunDirectory = request.getfixturevalue(fixture)
        leak.plant(monkeypatch, directory)
        found.append(output(directory, leak.stage, tmp_path / fixture))
    assert leak.file in different(*found)


@pytest.mark.parametrize("name", COUNTED)
def test_a_leak_into_what_is_counted_is_found(
    name: str, run: RunDirectory, other_test: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, file = COUNTED[name]
    plant(monkeypatch, run)
    found = [counted(directory, tmp_path / str(number)) for number, directory in enumerate((run, other_test))]
    assert file in different(*found)
