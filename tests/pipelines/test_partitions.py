"""Partitions: keys depend on all inputs, outputs are atomic, and histories survive a round trip."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.partitions import Partition, Shared, Task, read_histories, run_partition, user_partitions
from recsys.errors import DataError
from recsys.tables import Histories
from recsys.tracking import Tracker

PARTITION = Partition("rows 0-9", "content", {"text": "x"})
SHARED = Shared({}, "shared")


def write(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    (out / "text").write_text(partition.params["text"])
    if partition.params["text"] == "bad":
        raise DataError("the row is bad")
    if partition.params["text"] == "mistake":
        raise KeyError("nothing there")


def swept(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    """Is taken for dead while it is at work."""
    (out / "first").write_text("first")
    task(out.parent).sweep()


def other(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    (out / "text").write_text("other")


def task(out: Path, shared: Shared = SHARED) -> Task:
    return Task.of(write, shared, out)


def test_an_output_is_committed_once(tmp_path: Path) -> None:
    run_partition(task(tmp_path), PARTITION)
    assert (task(tmp_path).folder(PARTITION) / "text").read_text() == "x"
    again = PARTITION._replace(params={"text": "made by a slower process"})
    run_partition(task(tmp_path), again)
    assert (task(tmp_path).folder(PARTITION) / "text").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == [task(tmp_path).folder(PARTITION).name]


def test_the_folder_depends_on_everything_that_determines_the_output(tmp_path: Path) -> None:
    folders = {
        task(tmp_path).folder(PARTITION),
        task(tmp_path).folder(PARTITION._replace(content="changed")),
        task(tmp_path, Shared({}, "changed")).folder(PARTITION),
        task(tmp_path, Shared({}, "shared", version=2)).folder(PARTITION),
        Task.of(other, SHARED, tmp_path).folder(PARTITION),
    }
    assert len(folders) == 5
    moved = PARTITION._replace(name="rows", params={"text": "elsewhere"})
    assert task(tmp_path, Shared({"path": "elsewhere"}, "shared")).folder(moved) in folders, "paths do not matter"


def test_equal_partitions_are_computed_once(tmp_path: Path) -> None:
    assert task(tmp_path).missing([PARTITION, PARTITION._replace(name="the same")]) == [
        PARTITION._replace(name="the same")
    ]


@pytest.mark.parametrize(("text", "error"), [("bad", DataError), ("mistake", KeyError)])
def test_an_error_leaves_nothing_and_names_the_partition(tmp_path: Path, text: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        run_partition(task(tmp_path), PARTITION._replace(params={"text": text}))
    assert "rows 0-9" in " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert list(tmp_path.iterdir()) == []


def test_incomplete_outputs_are_swept(tmp_path: Path) -> None:
    run_partition(task(tmp_path), PARTITION)
    (tmp_path / ".abandoned").mkdir()
    (tmp_path / ".abandoned" / "half").write_text("ha")
    task(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == [task(tmp_path).folder(PARTITION)]


def test_a_swept_process_commits_nothing(tmp_path: Path) -> None:
    """Neither at its end nor in part."""
    with pytest.raises(FileNotFoundError):
        run_partition(Task.of(swept, SHARED, tmp_path), PARTITION)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_renamed_before_it_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that commits while its folder is being removed must not commit the rest."""
    (tmp_path / ".half").mkdir()
    (tmp_path / ".half" / "text").write_text("ha")
    there = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: there.append((tmp_path / ".half").exists()))
    task(tmp_path).sweep()
    assert there == [False]


def test_a_function_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises((AssertionError, AttributeError)):
        Task.of(lambda *_: None, SHARED, tmp_path)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_users_keep_their_order(tmp_path: Path, size: int) -> None:
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 50, size=length) for length in (3, 0, 5, 1, 0, 0, 9)]
    histories = Histories.from_lists([f"user {n}" for n in range(7)], sequences)
    partitions = user_partitions(histories, tmp_path, size=size)
    parts = [read_histories(partition) for partition in partitions]
    assert [user for part in parts for user in part.user_ids] == histories.user_ids
    read = [part[user].tolist() for part in parts for user in range(len(part))]
    assert read == [sequence.tolist() for sequence in sequences]
    assert all(part.items.dtype == part.indptr.dtype == np.int64 for part in parts)
    assert all(part.items.flags.writeable for part in parts)
    assert partitions == user_partitions(histories, tmp_path, size=size)
    assert len({partition.content for partition in partitions}) == len(partitions)
    assert partitions[0].name == f"users 0-{min(size, 7) - 1}"


def test_no_users_give_no_partitions(tmp_path: Path) -> None:
    assert user_partitions(Histories.from_lists([], []), tmp_path, size=4) == []
