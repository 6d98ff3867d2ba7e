"""Live item updates outlive the bundle and the process, and are adapted to what another bundle has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from recsys.errors import ConfigError, DataError
from serving.engine.interface import NewItem, Request
from serving.runtime.item_updates import ItemUpdate, ItemUpdates, NotPersistedError
from tests.serving.fakes import FakeEngine

NEW = NewItem("new", {"title": "New", "categories": "books"}, (0.5, 1.0))


def items(engine: FakeEngine) -> set[str]:
    return {item.item_id for item in engine.recommend([Request(k=100)], "popularity")[0].items}


def test_a_restart_and_another_bundle_keep_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "updates.sqlite"
    engine, updates = FakeEngine("a"), ItemUpdates(path)
    updates.apply(engine, ItemUpdate((NEW,), ("i3",)))
    updates.apply(engine, ItemUpdate(withdraw=("i4",)))
    for again in (FakeEngine("a"), FakeEngine("b", items=40)):
        before = items(again)
        ItemUpdates(path).replay(again)
        ItemUpdates(path).replay(again)
        assert items(again) == before - {"i3", "i4"} | {"new"}


def test_what_does_not_fit_another_bundle_is_left_out(tmp_path: Path) -> None:
    updates = ItemUpdates(tmp_path / "updates.sqlite")
    updates.apply(FakeEngine("a"), ItemUpdate((NEW,), ("i25",)))
    small = FakeEngine("b", items=10)
    small.add([NEW])
    updates.replay(small)
    assert items(small) == {f"i{n}" for n in range(10)} | {"new"}


def test_an_added_and_withdrawn_item_stays_withdrawn(tmp_path: Path) -> None:
    updates, engine = ItemUpdates(tmp_path / "updates.sqlite"), FakeEngine("a")
    updates.apply(engine, ItemUpdate((NEW,)))
    updates.apply(engine, ItemUpdate(withdraw=("new",)))
    fresh = FakeEngine("b")
    updates.replay(fresh)
    assert "new" not in items(fresh)


def test_a_withdrawn_item_can_be_restored_for_good(tmp_path: Path) -> None:
    path = tmp_path / "updates.sqlite"
    updates, engine = ItemUpdates(path), FakeEngine("a")
    updates.apply(engine, ItemUpdate(withdraw=("i1", "i2")))
    updates.apply(engine, ItemUpdate(restore=("i1",)))
    fresh = FakeEngine("a")
    for one in (engine, fresh):
        ItemUpdates(path).replay(one)
        assert items(one) == {f"i{n}" for n in range(30)} - {"i2"}
    with pytest.raises(DataError, match="restore: "):
        updates.apply(engine, ItemUpdate(restore=("i1",)))


def test_only_what_was_done_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "updates.sqlite"
    updates, engine = ItemUpdates(path), FakeEngine("a")
    with pytest.raises(DataError, match=r"withdraw: .*; already applied: add"):
        updates.apply(engine, ItemUpdate((NEW,), ("nothing",)))
    with pytest.raises(DataError):
        updates.apply(engine, ItemUpdate((NEW,)))
    fresh = FakeEngine("a")
    ItemUpdates(path).replay(fresh)
    assert "new" in items(fresh)


def test_an_update_that_cannot_be_persisted_is_applied_and_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "updates.sqlite"
    updates, engine = ItemUpdates(path), FakeEngine("a")
    updates.apply(engine, ItemUpdate(withdraw=("i1",)))
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(NotPersistedError, match=r"applied but not persisted: .*updates\.sqlite cannot be written"):
            updates.apply(engine, ItemUpdate(withdraw=("i2",)))
    assert items(engine) == {f"i{n}" for n in range(30)} - {"i1", "i2"}
    reloaded = FakeEngine("b")
    updates.replay(reloaded)
    assert items(reloaded) == items(engine), "the next bundle of this process has it"
    updates.apply(engine, ItemUpdate(withdraw=("i3",)))
    restarted = FakeEngine("a")
    ItemUpdates(path).replay(restarted)
    assert items(restarted) == {f"i{n}" for n in range(30)} - {"i1", "i3"}


@pytest.mark.parametrize("content", ["a directory", "text", "other tables"])
def test_a_file_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "updates.sqlite"
    if content == "a directory":
        path.mkdir()
    elif content == "text":
        path.write_text('{"add": [], "withdraw": ["i1"], "restore": []}\n' * 10)
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE withdrawals (something TEXT)")
    with pytest.raises(ConfigError, match=r"item_updates: .*updates\.sqlite cannot be used"):
        ItemUpdates(path)
