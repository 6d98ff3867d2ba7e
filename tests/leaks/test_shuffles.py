"""Other held-out items change no artifact, but for what validation may choose: an epoch, a weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import pipelines.recommend
from pipelines import STAGES
from recsys.artifacts import RunDirectory
from recsys.data.histories import queries
from recsys.data.purposes import Purpose, users_for
from recsys.files import read_json
from recsys.tables import TEST, TRAIN, VALIDATION
from tests.leaks.battery import CONFIG, counted, dataset_of, different, no_choice, output, recorded, with_other_items

LEARNING = [stage.name for stage in STAGES if stage.name not in ("prepare", "recommend", "evaluate")]
SASREC = "sasrec/sasrec.safetensors"


def test_the_datasets_differ_in_held_out_items_alone(
    run: RunDirectory, other_test: RunDirectory, other_validation: RunDirectory
) -> None:
    frame = dataset_of(run).interactions.frame
    for other, splits in ((other_test, {TEST}), (other_validation, {VALIDATION, TEST})):
        changed = dataset_of(other).interactions.frame
        assert changed.drop("item_id").equals(frame.drop("item_id"))
        for split in (TRAIN, VALIDATION, TEST):
            share = (changed.filter(split=split)["item_id"] != frame.filter(split=split)["item_id"]).mean()
            assert (share > 0.8) if split in splits else (share == 0)
    assert dataset_of(other_validation).catalog.item_ids == dataset_of(run).catalog.item_ids


@pytest.mark.parametrize("stage", [*LEARNING, "recommend"])
def test_other_test_items_change_nothing_before_the_report(
    run: RunDirectory, other_test: RunDirectory, tmp_path: Path, stage: str
) -> None:
    """The rankings, what was tuned and the served policy included."""
    made = output(other_test, stage, tmp_path)
    assert made
    assert different(made, recorded(run, stage)) == set()


@pytest.mark.parametrize("stage", LEARNING)
def test_other_validation_items_change_nothing_where_validation_has_no_choice(
    run: RunDirectory, other_validation: RunDirectory, tmp_path: Path, stage: str
) -> None:
    """With the scores of validation fixed, so that every training keeps the same epoch, all files are equal."""
    found = []
    for number, directory in enumerate((run, other_validation)):
        with no_choice():
            found.append(output(directory, stage, tmp_path / str(number)))
    assert different(*found) == set()


def test_other_validation_items_change_only_which_epoch_of_sasrec_ranks(
    run: RunDirectory, other_validation: RunDirectory, tmp_path: Path
) -> None:
    """Its scores are others, and yet the vectors that reach the tokenizers are the same."""
    made = output(other_validation, "embed", tmp_path)
    assert different(made, recorded(run, "embed")) <= {SASREC, "training_log.jsonl"}
    before, after = run.folder("embed"), tmp_path / "embed" / "out"
    first, second = (load_file(folder / SASREC) for folder in (before, after))
    for name in ("vectors", "counts"):
        np.testing.assert_array_equal(first[name], second[name])
    scores = [_logged(folder, "sasrec/validation_ndcg@10") for folder in (before, after)]
    assert scores[0] != scores[1]
    losses = [_logged(folder, "sasrec/loss") for folder in (before, after)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_other_held_out_items_change_no_count_no_neighbour_and_not_the_served_policy(
    run: RunDirectory, other_validation: RunDirectory, tmp_path: Path
) -> None:
    first, second = (counted(each, tmp_path / each.path.parent.name) for each in (run, other_validation))
    assert first.keys() == {"popularity", "served.json", "item_knn.safetensors"}
    assert different(first, second) == set()


@pytest.fixture(scope="module")
def purposes(run: RunDirectory) -> dict[Purpose, list[str]]:
    """The users of each purpose, as many as the stages take."""
    dataset = dataset_of(run)
    users = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=50)
    limit = CONFIG.recommend.tuning_users
    return {
        "epochs": users_for("epochs", users, seed=0).user_ids,
        "scoring": users_for("scoring", users, seed=0, limit=limit).user_ids,
        "fusion": users_for("fusion", users, seed=0, limit=limit).user_ids,
    }


def test_records_have_the_number_of_users_of_each_purpose(
    run: RunDirectory, purposes: dict[Purpose, list[str]]
) -> None:
    sizes = {purpose: len(user_ids) for purpose, user_ids in purposes.items()}
    assert sizes == {"epochs": 24, "scoring": 12, "fusion": 20}, "of 60, at most 20 for tuning"
    epochs = {"epochs": sizes.pop("epochs")}
    for stage, expected in {"embed": epochs, "finetune": epochs, "diffuse": epochs, "recommend": sizes}.items():
        assert run.existing_record(stage).notes["validation_users"] == expected


@pytest.mark.parametrize("stage", ["embed", "finetune", "diffuse"])
def test_who_tunes_scoring_and_fusion_chooses_no_epoch(
    run: RunDirectory, purposes: dict[Purpose, list[str]], tmp_path: Path, stage: str
) -> None:
    user_ids = [*purposes["scoring"], *purposes["fusion"]]
    other = with_other_items(run, tmp_path / "run", VALIDATION, user_ids=user_ids)
    assert different(output(other, stage, tmp_path), recorded(run, stage)) == set()


def test_who_chooses_epochs_tunes_nothing_and_who_tunes_fusion_no_scoring(
    run: RunDirectory, purposes: dict[Purpose, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.recommend, "user_partitions", lambda *_, **__: [])  # the rankings do not matter here
    before, after = read_json(run.folder("recommend") / "fusion.json"), {}
    for purpose in ("epochs", "fusion"):
        other = with_other_items(run, tmp_path / purpose / "run", VALIDATION, user_ids=purposes[purpose])
        output(other, "recommend", tmp_path / purpose)
        after[purpose] = read_json(tmp_path / purpose / "recommend" / "out" / "fusion.json")
    assert after["epochs"] == before
    assert after["fusion"]["rankers"] == before["rankers"]
    assert after["fusion"]["validation"] != before["validation"]


def _logged(folder: Path, name: str) -> list[Any]:
    lines = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]
