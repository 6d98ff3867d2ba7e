"""Other held-out items change no artifact, but for what validation may choose: an epoch, a weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines import STAGES
from recsys.artifacts import RunDirectory
from recsys.tables import TEST, TRAIN, VALIDATION
from tests.leaks.battery import counted, dataset_of, different, no_choice, output, recorded

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


def _logged(folder: Path, name: str) -> list[Any]:
    lines = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]
