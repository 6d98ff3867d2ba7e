"""Live updates of items: what was added and withdrawn is applied to every later bundle, also after a restart.

Reads and writes a SQLite file, each update committed before it is confirmed. Updates can be replayed on any bundle:
items that it has are not added again, items that it does not have are not withdrawn.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from recsys.errors import DataError, RecsysError
from serving.engine.interface import Engine, NewItem
from serving.runtime.database import open_database, unusable

logger = logging.getLogger(__name__)

SCHEMA = """
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS added_items (item_id TEXT PRIMARY KEY, item TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS withdrawals (item_id TEXT PRIMARY KEY, withdrawn INTEGER NOT NULL);
"""


class NotPersistedError(RecsysError):
    """An update was applied to the bundle that is served, but could not be written to disk."""


class ItemUpdate(NamedTuple):
    """Items to add, then ids to withdraw, then withdrawn ids to restore."""

    add: tuple[NewItem, ...] = ()
    withdraw: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()


class ItemUpdates:
    """All updates so far; hold `lock` while an update is applied or another engine is put in place."""

    def __init__(self, path: Path | None = None) -> None:
        """Those in a file, which is created; without one they last as long as the process.

        Raises:
            ConfigError: the file cannot be used.
        """
        self.lock = threading.RLock()
        self._path = path
        self._added: dict[str, NewItem] = {}
        self._withdrawn: dict[str, bool] = {}  # False: restored
        self._database = None if path is None else open_database(path, SCHEMA, setting="item_updates")
        if path is not None and self._database is not None:
            try:
                self._read(self._database)
            except (sqlite3.Error, ValueError, KeyError) as error:
                self._database.close()
                raise unusable("item_updates", path, error) from error

    def apply(self, engine: Engine, update: ItemUpdate) -> None:
        """Update the engine that is served, and persist what was applied.

        Raises:
            DataError: the engine rejects a step; the message names the steps applied before it.
            NotPersistedError: the steps are applied, but a restart will lose them.
        """
        applied = ItemUpdate()
        with self.lock:
            try:
                for name, items in update._asdict().items():
                    if items:
                        self._apply_step(engine, name, items, applied)
                        applied = applied._replace(**{name: items})
            finally:
                self._added |= {item.item_id: item for item in applied.add}
                visibility = dict.fromkeys(applied.withdraw, True) | dict.fromkeys(applied.restore, False)
                self._withdrawn |= visibility
                self._persist(applied.add, visibility)

    def replay(self, engine: Engine) -> None:
        """Apply all updates to an engine, as far as they fit its items."""
        with self.lock:
            added, withdrawn = list(self._added.values()), dict(self._withdrawn)
        _add(engine, [item for item in added if _is_withdrawn(engine, item.item_id) is None])
        engine.withdraw([i for i, gone in withdrawn.items() if gone and _is_withdrawn(engine, i) is False])
        engine.restore([i for i, gone in withdrawn.items() if not gone and _is_withdrawn(engine, i)])

    def _read(self, database: sqlite3.Connection) -> None:
        for (item,) in database.execute("SELECT item FROM added_items ORDER BY rowid"):
            values = json.loads(item)
            vector = None if values["vector"] is None else tuple(values["vector"])
            self._added[values["item_id"]] = NewItem(values["item_id"], values["texts"], vector)
        rows = database.execute("SELECT item_id, withdrawn FROM withdrawals ORDER BY rowid")
        self._withdrawn = {item_id: bool(withdrawn) for item_id, withdrawn in rows}

    def _apply_step(self, engine: Engine, name: str, items: Sequence[NewItem | str], applied: ItemUpdate) -> None:
        try:
            getattr(engine, name)(items)
        except DataError as error:
            before = [step for step, done in applied._asdict().items() if done]
            raise DataError(
                f"{name}: {error}" + (f"; already applied: {', '.join(before)}" if before else "")
            ) from error

    def _persist(self, added: Sequence[NewItem], visibility: dict[str, bool]) -> None:
        """All rows in one transaction."""
        if self._database is None or not (added or visibility):
            return
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                rows = [(item.item_id, json.dumps(asdict(item))) for item in added]
                self._database.executemany("INSERT OR REPLACE INTO added_items VALUES (?, ?)", rows)
                self._database.executemany("INSERT OR REPLACE INTO withdrawals VALUES (?, ?)", visibility.items())
        except sqlite3.Error as error:
            raise NotPersistedError(
                f"the update is applied but not persisted: {self._path} cannot be written ({error}); "
                "make room and repeat it before a restart"
            ) from error


def _is_withdrawn(engine: Engine, item_id: str) -> bool | None:
    """Whether an item is withdrawn; None where the engine does not have it."""
    try:
        return engine.item(item_id).withdrawn
    except DataError:
        return None


def _add(engine: Engine, items: Sequence[NewItem]) -> None:
    """Add items together; those that a new bundle cannot take (other columns, other vector width) are skipped."""
    try:
        engine.add(items)
    except RecsysError as error:
        if len(items) == 1:
            logger.warning("a live item is left out of the new bundle: %s", error)
            return
        for item in items:
            _add(engine, [item])
