"""Every training: a killed one resumes bit-equal, a checkpoint is continued only by the training that wrote it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from recsys.errors import ArtifactError
from tests.training.trainings import TRAININGS, Job, KilledError, Killer, Weights

Train = Callable[[Job], Weights]
FAST = {"sasrec", "language_model of items", "preference", "cross_entropy"}  # trainings among the fast tests


def slow(value: Any) -> Any:
    """A parameter of the slow tests alone."""
    return pytest.param(value, marks=pytest.mark.slow)


def every(is_fast: Callable[[str], bool]) -> Any:
    """A test of every training; among the fast tests only of some."""
    trainings = [train if is_fast(name) else slow(train) for name, train in TRAININGS.items()]
    return pytest.mark.parametrize("train", trainings, ids=list(TRAININGS))


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class Uninterrupted(NamedTuple):
    weights: Weights
    events: int
    work: Path  # its checkpoints
    left_alone: bool  # whether the global generator is as it was before


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Uninterrupted]:
    """A training from its start to its end, run once for every change."""

    @cache
    def run(train: Train, **change: Any) -> Uninterrupted:
        folder, tracker = tmp_path_factory.mktemp("uninterrupted"), Killer()
        torch.manual_seed(3)
        before = torch.get_rng_state()
        weights = train(Job(folder / "out", folder / "work", tracker=tracker, **change))
        left_alone = torch.equal(torch.get_rng_state(), before)
        return Uninterrupted(weights, tracker.events, folder / "work", left_alone)

    return run


def kill(train: Train, job: Job, at: int) -> None:
    with pytest.raises(KilledError):
        train(replace(job, tracker=Killer(at)))


@every(FAST.__contains__)
@pytest.mark.parametrize("share", [slow(0.2), 0.55, slow(0.9)])
def test_killed_and_resumed_is_bit_equal(
    train: Train, share: float, uninterrupted: Callable[..., Uninterrupted], tmp_path: Path
) -> None:
    expected, job = uninterrupted(train), Job(tmp_path / "out", tmp_path / "work", tracker=Killer())
    kill(train, job, round(share * (expected.events - 1)))
    assert_equal(train(job), expected.weights)
    if share > 0.5:
        assert job.tracker.events < expected.events, "the checkpoint is really continued"


@every(FAST.__contains__)
def test_a_finished_training_is_not_repeated_and_a_damaged_checkpoint_is_refused(
    train: Train, uninterrupted: Callable[..., Uninterrupted], tmp_path: Path
) -> None:
    finished, job = uninterrupted(train), Job(tmp_path / "out", tmp_path / "work", tracker=Killer())
    shutil.copytree(finished.work, tmp_path / "work")
    assert_equal(train(job), finished.weights)
    assert job.tracker.events == 0
    assert finished.left_alone
    for path in (tmp_path / "work").rglob("*.safetensors"):
        path.write_bytes(b"half")
    with pytest.raises(ArtifactError, match="delete it to train from the start"):
        train(replace(job, out=tmp_path / "again"))


CHANGES: dict[str, dict[str, Any]] = {"seed is 0, not 1": {"seed": 1}, "_rate": {"rate": 2.0}, "data": {"shift": 1}}


# Every training asks its trainer the same question, so that the fast tests ask one of them.
@every({"sasrec"}.__contains__)
def test_a_checkpoint_of_another_training_is_kept_and_not_continued(
    train: Train, uninterrupted: Callable[..., Uninterrupted], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, job = uninterrupted(train), Job(tmp_path / "out", tmp_path / "work")
    kill(train, job, round(0.7 * first.events))
    files = {path: path.read_bytes() for path in (tmp_path / "work").rglob("*.safetensors")}
    assert files
    for number, (reason, change) in enumerate(CHANGES.items()):
        caplog.clear()
        changed = replace(job, out=tmp_path / str(number), **change)
        kill(train, changed, 1)
        assert any("starts anew" in message and reason in message for message in caplog.messages)
    seeded = replace(job, out=tmp_path / "seeded", tracker=Killer(), seed=1)
    expected, found = uninterrupted(train, seed=1).weights, train(seeded)
    assert_equal(found, expected)
    assert any(not torch.equal(found[name], first.weights[name]) for name in found), "the change matters"
    assert {path: path.read_bytes() for path in files} == files, "nothing of the first training is lost"
    assert_equal(train(job), first.weights)
