"""Every training: a killed one resumes bit-equal, a checkpoint is continued only by the training that wrote it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recsys.errors import ArtifactError
from tests.training.trainings import TRAININGS, Job, KilledError, Killer, Weights

pytestmark = pytest.mark.parametrize("train", TRAININGS.values(), ids=list(TRAININGS))

Train = Callable[[Job], Weights]


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def differ(one: Weights, other: Weights) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.55, 0.9])
def test_killed_and_resumed_is_bit_equal(train: Train, share: float, tmp_path: Path) -> None:
    whole, cut, resumed = Killer(), Killer(), Killer()
    expected = train(Job(tmp_path / "whole", tracker=whole))
    cut.at = round(share * (whole.events - 1))
    with pytest.raises(KilledError):
        train(Job(tmp_path / "cut", tmp_path / "work", tracker=cut))
    assert_equal(train(Job(tmp_path / "cut", tmp_path / "work", tracker=resumed)), expected)
    if share > 0.5:
        assert resumed.events < whole.events, "the checkpoint is really continued"


def test_a_finished_training_is_not_repeated(train: Train, tmp_path: Path) -> None:
    expected = train(Job(tmp_path / "out", tmp_path / "work"))
    again = Killer()
    assert_equal(train(Job(tmp_path / "again", tmp_path / "work", tracker=again)), expected)
    assert again.events == 0


@pytest.mark.parametrize(
    ("change", "reason"), [({"seed": 1}, "seed is 0, not 1"), ({"rate": 2.0}, "r"), ({"shift": 1}, "(data)")]
)
def test_a_checkpoint_of_another_training_is_kept_and_not_continued(
    train: Train, change: dict[str, int], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KilledError):
        train(Job(tmp_path / "first", tmp_path / "work", tracker=Killer(at=_half(train, tmp_path))))
    files = {path: path.read_bytes() for path in (tmp_path / "work").rglob("*.safetensors")}
    assert files
    with caplog.at_level(logging.WARNING):
        changed = train(Job(tmp_path / "changed", tmp_path / "work", **change))  # type: ignore[arg-type]
    assert any("starts anew" in message and reason in message for message in caplog.messages)
    fresh = train(Job(tmp_path / "fresh", **change))  # type: ignore[arg-type]
    assert_equal(changed, fresh)
    first = train(Job(tmp_path / "whole"))
    assert differ(fresh, first), "the change matters"
    assert {path: path.read_bytes() for path in files} == files, "nothing of the first training is lost"
    assert_equal(train(Job(tmp_path / "first", tmp_path / "work")), first)


def _half(train: Train, tmp_path: Path) -> int:
    whole = Killer()
    train(Job(tmp_path / "half", tracker=whole))
    return round(0.7 * whole.events)


def test_a_damaged_checkpoint_is_refused(train: Train, tmp_path: Path) -> None:
    train(Job(tmp_path / "out", tmp_path / "work"))
    for path in (tmp_path / "work").rglob("*.safetensors"):
        path.write_bytes(b"half")
    with pytest.raises(ArtifactError, match="delete it to train from the start"):
        train(Job(tmp_path / "out", tmp_path / "work"))


def test_the_global_generator_is_left_alone(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(Job(tmp_path / "out"))
    assert torch.equal(torch.get_rng_state(), before)
