"""Live changes outlive the bundle and the process, and fit themselves to what another bundle has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recsys.errors import ArtifactError, ConfigError, DataError
from serving.engine.interface import NewItem, Request
from serving.runtime.item_updates import ItemUpdate, ItemUpdates
from tests.serving.fakes import FakeEngine

NEW = NewItem("new", {"title": "New", "categories": "books"}, (0.5, 1.0))


def items(engine: FakeEngine) -> set[str]:
    return {item.item_id for item in engine.recommend([Request(k=100)], "popularity")[0].items}


def test_a_restart_and_another_bundle_keep_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "item_updates.jsonl"
    engine, changes = FakeEngine("a"), ItemUpdates(path)
    changes.apply(engine, ItemUpdate((NEW,), ("i3",)))
    changes.apply(engine, ItemUpdate(withdraw=("i4",)))
    for again in (FakeEngine("a"), FakeEngine("b", items=40)):
        before = items(again)
        ItemUpdates(path).replay(again)
        ItemUpdates(path).replay(again)
        assert items(again) == before - {"i3", "i4"} | {"new"}


def test_what_does_not_fit_another_bundle_is_left_out(tmp_path: Path) -> None:
    changes = ItemUpdates(tmp_path / "item_updates.jsonl")
    changes.apply(FakeEngine("a"), ItemUpdate((NEW,), ("i25",)))
    small = FakeEngine("b", items=10)
    small.add([NEW])
    changes.replay(small)
    assert items(small) == {f"i{n}" for n in range(10)} | {"new"}


def test_an_added_and_withdrawn_item_stays_withdrawn(tmp_path: Path) -> None:
    changes, engine = ItemUpdates(tmp_path / "item_updates.jsonl"), FakeEngine("a")
    changes.apply(engine, ItemUpdate((NEW,)))
    changes.apply(engine, ItemUpdate(withdraw=("new",)))
    fresh = FakeEngine("b")
    changes.replay(fresh)
    assert "new" not in items(fresh)


def test_a_withdrawn_item_can_be_restored_for_good(tmp_path: Path) -> None:
    path = tmp_path / "item_updates.jsonl"
    changes, engine = ItemUpdates(path), FakeEngine("a")
    changes.apply(engine, ItemUpdate(withdraw=("i1", "i2")))
    changes.apply(engine, ItemUpdate(restore=("i1",)))
    fresh = FakeEngine("a")
    for one in (engine, fresh):
        ItemUpdates(path).replay(one)
        assert items(one) == {f"i{n}" for n in range(30)} - {"i2"}
    with pytest.raises(DataError, match="restore: "):
        changes.apply(engine, ItemUpdate(restore=("i1",)))


def test_only_what_was_done_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "item_updates.jsonl"
    changes, engine = ItemUpdates(path), FakeEngine("a")
    with pytest.raises(DataError, match=r"withdraw: .*; done before: add"):
        changes.apply(engine, ItemUpdate((NEW,), ("nothing",)))
    with pytest.raises(DataError):
        changes.apply(engine, ItemUpdate((NEW,)))
    assert len(path.read_text().splitlines()) == 1
    fresh = FakeEngine("a")
    ItemUpdates(path).replay(fresh)
    assert "new" in items(fresh)


def test_half_a_line_of_a_kill_is_left_out_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "item_updates.jsonl"
    ItemUpdates(path).apply(FakeEngine("a"), ItemUpdate(withdraw=("i1",)))
    whole = path.read_bytes()
    path.write_bytes(whole + '{"add": [], "withdraw": ["ü'.encode()[:-1])
    ItemUpdates(path).apply(FakeEngine("a"), ItemUpdate(withdraw=("i2",)))
    fresh = FakeEngine("a")
    ItemUpdates(path).replay(fresh)
    assert items(fresh) == {f"i{n}" for n in range(30)} - {"i1", "i2"}


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "item_updates.jsonl"
    ItemUpdates(path).apply(FakeEngine("a"), ItemUpdate(withdraw=("i1",)))
    path.write_bytes(path.read_bytes().rstrip())
    ItemUpdates(path).apply(FakeEngine("a"), ItemUpdate(withdraw=("i2",)))
    fresh = FakeEngine("a")
    ItemUpdates(path).replay(fresh)
    assert items(fresh) == {f"i{n}" for n in range(30)} - {"i1", "i2"}


def test_a_line_that_cannot_be_written_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "item_updates.jsonl"
    changes, engine = ItemUpdates(path), FakeEngine("a")
    changes.apply(engine, ItemUpdate(withdraw=("i1",)))

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="a restart will forget it"):
            changes.apply(engine, ItemUpdate(withdraw=("i2",)))
    assert items(engine) == {f"i{n}" for n in range(30)} - {"i1", "i2"}
    changes.apply(engine, ItemUpdate(withdraw=("i3",)))
    fresh = FakeEngine("a")
    ItemUpdates(path).replay(fresh)
    assert items(fresh) == {f"i{n}" for n in range(30)} - {"i1", "i3"}


@pytest.mark.parametrize("name", [".", "nowhere/changes.jsonl"])
def test_a_place_that_cannot_be_written_is_said_at_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="changes: "):
        ItemUpdates(tmp_path / name)


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"add": [{}], "withdraw": []}'])
def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "item_updates.jsonl"
    path.write_text(f'{{"add": [], "withdraw": [], "restore": []}}\n{line}\n')
    with pytest.raises(ArtifactError, match=r"item_updates\.jsonl, line 2"):
        ItemUpdates(path)
