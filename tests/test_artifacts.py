"""A run directory: atomic, verified, repaired after a kill, locked against a second writer."""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from recsys.artifacts import RunDirectory, StageKey
from recsys.errors import ArtifactError
from recsys.files import fingerprint, link

Key = Callable[..., StageKey]


def make(directory: RunDirectory, key: StageKey, text: str = "content") -> None:
    with directory.lock(), directory.stage("make", key, ()) as run:
        (run.out / "sub").mkdir()
        (run.out / "sub" / "file.txt").write_text(text)
        run.note(rows=3)


def test_a_finished_stage_is_published_with_its_record_and_the_manifest(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1))
    record = directory.existing_record("make")
    manifest = json.loads((directory.path / "manifest.json").read_text())
    assert record.files["sub/file.txt"].size == len("content")
    assert record.notes == {"rows": 3}
    assert manifest["stages"]["01_make"] == record.model_dump(mode="json")
    assert not [p for p in directory.path.iterdir() if p.name.endswith((".partial", ".old"))]
    assert directory.verified("make").joinpath("sub", "file.txt").read_text() == "content"


def test_a_part_of_a_stage_has_its_own_fingerprint(directory: RunDirectory, key: Key) -> None:
    def write(other: str) -> str:
        with directory.lock(), directory.stage("make", key(a=other), ()) as run:
            for folder, text in (("sub", "same"), ("other", other)):
                (run.out / folder).mkdir()
                (run.out / folder / "file.txt").write_text(text)
        return directory.existing_record("make").fingerprint("sub")

    assert write("first") == write("second")
    assert directory.existing_record("make").fingerprint("other") != directory.existing_record("make").fingerprint()
    (directory.folder("make") / "other" / "file.txt").write_text("broken")
    assert (directory.verified("make/sub") / "file.txt").read_text() == "same"
    with pytest.raises(ArtifactError, match=r"other/file\.txt is corrupted"):
        directory.verified("make/other")
    with pytest.raises(ArtifactError, match="none is missing; the run's configuration leaves it out"):
        directory.verified("make/none")


def test_an_error_inside_a_stage_leaves_the_earlier_folder(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1), "first")

    def fail() -> None:
        with directory.lock(), directory.stage("make", key(a=2), ()) as run:
            (run.out / "file.txt").write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert (directory.verified("make") / "sub" / "file.txt").read_text() == "first"


def test_work_survives_a_failure_and_is_dropped_when_the_key_changes(directory: RunDirectory, key: Key) -> None:
    def attempt(settings: StageKey) -> bool:
        with suppress(RuntimeError), directory.lock(), directory.stage("make", settings, ()) as run:
            found = (run.work / "checkpoint").exists()
            (run.work / "checkpoint").write_text("step 5")
            raise RuntimeError
        return found

    assert [attempt(key(a=1)), attempt(key(a=1)), attempt(key(a=2)), attempt(key(a=2))] == [False, True, False, True]
    assert directory.unfinished("make") == key(a=2)
    make(directory, key(a=2))
    assert not (directory.path / ".work" / "01_make").exists()
    assert directory.unfinished("make") is None


@pytest.mark.parametrize("change", ["truncate", "remove", "same size"])
def test_a_changed_file_is_refused_by_name(directory: RunDirectory, key: Key, change: str) -> None:
    make(directory, key(a=1))
    path = directory.folder("make") / "sub" / "file.txt"
    if change == "remove":
        path.unlink()
    else:
        path.write_text("cont" if change == "truncate" else "CONTENT")
    with pytest.raises(ArtifactError, match=r"01_make/sub/file\.txt") as caught:
        directory.verified("make")
    assert "delete" in str(caught.value)


def test_a_stage_that_was_never_run_is_named(directory: RunDirectory) -> None:
    with pytest.raises(ArtifactError, match="run the stage 'use' first") as caught:
        directory.verified("use")
    assert "02_use" in str(caught.value)


def test_a_corrupted_record_is_refused_by_name(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1))
    (directory.folder("make") / "stage.json").write_text('{"stage": "make"')
    with pytest.raises(ArtifactError, match=r"stage\.json") as caught:
        directory.record("make")
    assert "delete" in str(caught.value)


def test_a_kill_between_the_record_and_the_rename_is_repaired(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1))
    directory.folder("make").rename(directory.path / ".01_make.partial")
    (directory.path / "manifest.json").write_text('{"format": 1, "stages": {}}')
    with directory.lock():
        assert directory.record("make") is not None
    assert "01_make" in json.loads((directory.path / "manifest.json").read_text())["stages"]


def test_a_kill_between_the_two_renames_of_a_replacement_is_repaired(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1), "old")
    directory.folder("make").rename(directory.path / "kept")
    make(directory, key(a=2), "new")
    directory.folder("make").rename(directory.path / ".01_make.partial")
    (directory.path / "kept").rename(directory.path / ".01_make.old")
    with directory.lock():
        assert (directory.verified("make") / "sub" / "file.txt").read_text() == "new"
    assert not (directory.path / ".01_make.old").exists()


def test_a_second_writer_is_refused(directory: RunDirectory) -> None:
    with directory.lock(), pytest.raises(ArtifactError, match="another process") as caught, directory.lock():
        pass
    assert str(directory.path) in str(caught.value)


def test_another_version_and_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 99, "stages": {}}')
    with pytest.raises(ArtifactError, match="format 99"):
        RunDirectory(tmp_path, {})
    (tmp_path / "manifest.json").rename(tmp_path / "holiday.jpg")
    with pytest.raises(ArtifactError, match="no run directory"):
        RunDirectory(tmp_path, {})
    with pytest.raises(ArtifactError, match="is a file") as caught:
        RunDirectory(tmp_path / "holiday.jpg", {})
    assert "holiday.jpg" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_no_space_left_is_one_clear_line(directory: RunDirectory, key: Key, error: Exception) -> None:
    def fill_the_disk() -> None:
        with directory.lock(), directory.stage("make", key(a=1), ()) as run:
            (run.work / "checkpoint").write_text("step 5")
            raise error

    with pytest.raises(ArtifactError, match="no space left") as caught:
        fill_the_disk()
    assert "finished work is kept" in str(caught.value)
    assert (directory.path / ".work" / "01_make" / "checkpoint").exists()


def test_a_fingerprint_depends_on_contents_and_not_on_paths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "items.csv").write_text("1,2")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "items.csv").write_text("1,3")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_the_same_files_have_the_same_fingerprint_in_another_run(tmp_path: Path, key: Key) -> None:
    runs = [RunDirectory(tmp_path / name, {"make": "01_make"}) for name in ("one", "two")]
    for run in runs:
        make(run, key(a=run.path.name))
    assert runs[0].existing_record("make").fingerprint() == runs[1].existing_record("make").fingerprint()


def other_than(directory: RunDirectory) -> RunDirectory:
    """A directory of the same stages beside another."""
    return RunDirectory(directory.path.parent / "other", directory.folders)


def test_a_stage_of_another_directory_is_adopted_without_a_second_copy(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1))
    other = other_than(directory)
    with other.lock():
        other.adopt("make", directory)
    assert other.existing_record("make") == directory.existing_record("make")
    files = [found.verified("make") / "sub" / "file.txt" for found in (directory, other)]
    assert files[0].samefile(files[1])
    make(directory, key(a=2), "changed")
    assert files[1].read_text() == "content", "a stage is replaced, never written into"
    manifest = json.loads((other.path / "manifest.json").read_text())
    assert list(manifest["stages"]) == ["01_make"]


def test_files_are_copied_where_links_are_not_possible(
    directory: RunDirectory, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    make(directory, key(a=1))
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    other = other_than(directory)
    with other.lock():
        other.adopt("make", directory)
    copied = other.verified("make") / "sub" / "file.txt"
    assert copied.read_text() == "content"
    assert not copied.samefile(directory.folder("make") / "sub" / "file.txt")


def test_a_damaged_stage_is_not_adopted(directory: RunDirectory, key: Key) -> None:
    make(directory, key(a=1))
    (directory.folder("make") / "sub" / "file.txt").write_text("CONTENT")
    other = other_than(directory)
    with other.lock(), pytest.raises(ArtifactError, match="corrupted"):
        other.adopt("make", directory)
    assert other.record("make") is None


def test_an_adoption_that_was_killed_is_not_taken_for_a_stage(
    directory: RunDirectory, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(directory, key(a=1))
    other, linked = other_than(directory), []

    def link_one(path: Path, target: Path) -> None:
        if linked:
            raise KeyboardInterrupt
        linked.append(link(path, target))

    monkeypatch.setattr("recsys.artifacts.link", link_one)
    with other.lock(), pytest.raises(KeyboardInterrupt):
        other.adopt("make", directory)
    monkeypatch.undo()
    with other.lock():
        assert other.record("make") is None
        other.adopt("make", directory)
    assert other.verified("make").joinpath("sub", "file.txt").read_text() == "content"
