"""Live changes of items, kept: what was added and withdrawn holds for the next bundle and after a restart.

Reads and writes a file of JSON lines, one a change, each on the disk before it is confirmed. They can be replayed any
time: what a bundle has already is not added again, what it does not have is not withdrawn.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recsys.errors import ArtifactError, ConfigError, DataError, RecsysError
from recsys.files import sync
from serving.engine.interface import Engine, NewItem

logger = logging.getLogger(__name__)


class ItemUpdate(NamedTuple):
    """Items to add, then ids to withdraw, then withdrawn ids to restore."""

    add: tuple[NewItem, ...] = ()
    withdraw: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()

    def steps(self) -> list[ItemUpdate]:
        """One of them at a time."""
        steps = [ItemUpdate(add=self.add), ItemUpdate(withdraw=self.withdraw), ItemUpdate(restore=self.restore)]
        return [step for step in steps if any(step)]


class ItemUpdates:
    """What all changes so far come to; `lock` is held by whoever applies one, or puts an engine in another's place."""

    def __init__(self, path: Path | None = None) -> None:
        """Those in a file, which is created; without one they last as long as the process.

        Raises:
            ArtifactError: the file holds something else.
            ConfigError: it cannot be written.
        """
        self.lock = threading.RLock()
        self._path = path
        self._added: dict[str, NewItem] = {}
        self._withdrawn: dict[str, bool] = {}  # False: restored
        for change in [] if path is None else _read(path):
            self._note(change)

    def apply(self, engine: Engine, change: ItemUpdate) -> None:
        """Change the engine that answers, and keep what was done.

        Raises:
            DataError: the engine refuses a step; those before it are done, and said to be.
            ArtifactError: a step was done but cannot be kept for a restart.
        """
        done: list[str] = []
        with self.lock:
            for step in change.steps():
                name = next(name for name, items in step._asdict().items() if items)
                try:
                    _do(engine, step)
                except DataError as error:
                    before = f"; done before: {', '.join(done)}" if done else ""
                    raise DataError(f"{name}: {error}{before}") from error
                self._note(step)
                self._keep(step)
                done.append(name)

    def replay(self, engine: Engine) -> None:
        """Have an engine be as if all changes had been made to it, as far as they fit its items."""
        with self.lock:
            added, withdrawn = list(self._added.values()), dict(self._withdrawn)
        _add(engine, [item for item in added if _is_withdrawn(engine, item.item_id) is None])
        engine.withdraw([i for i, gone in withdrawn.items() if gone and _is_withdrawn(engine, i) is False])
        engine.restore([i for i, gone in withdrawn.items() if not gone and _is_withdrawn(engine, i)])

    def _note(self, step: ItemUpdate) -> None:
        self._added |= {item.item_id: item for item in step.add}
        self._withdrawn |= dict.fromkeys(step.withdraw, True) | dict.fromkeys(step.restore, False)

    def _keep(self, step: ItemUpdate) -> None:
        """One line on the disk, or none."""
        if self._path is None:
            return
        line = json.dumps(step._asdict() | {"add": [item.__dict__ for item in step.add]}).encode() + b"\n"
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) < len(line):
                    raise OSError("no space is left")
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                raise ArtifactError(
                    f"the change is made, but a restart will forget it: {self._path} cannot be written ({error})"
                ) from error


def _do(engine: Engine, step: ItemUpdate) -> None:
    engine.add(step.add)
    engine.withdraw(step.withdraw)
    engine.restore(step.restore)


def _is_withdrawn(engine: Engine, item_id: str) -> bool | None:
    """Whether an item is withdrawn; None where the engine does not have it."""
    try:
        return engine.item(item_id).withdrawn
    except DataError:
        return None


def _add(engine: Engine, items: Sequence[NewItem]) -> None:
    """Together; those that a new bundle cannot take (other columns, vectors of another width) stay out."""
    try:
        engine.add(items)
    except RecsysError as error:
        if len(items) == 1:
            logger.warning("a live item is left out of the new bundle: %s", error)
            return
        for item in items:
            _add(engine, [item])


def _read(path: Path) -> list[ItemUpdate]:
    """The changes in a file that can be written to; half a line at its end, where a kill came between, is cut off."""
    try:
        with path.open("a+b") as file:
            file.seek(0)
            whole, newline, torn = file.read().rpartition(b"\n")
            lines = whole.splitlines() if newline else []
            if torn and _is_json(torn):
                file.write(b"\n")
                lines.append(torn)
            elif torn:
                logger.warning("%s ends in half a line, which is left out", path)
                file.truncate(len(whole) + len(newline))
        sync(path.absolute().parent)
    except OSError as error:
        raise ConfigError(
            f"changes: {path} cannot be used ({error.strerror}); name a file that can be written"
        ) from error
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parsed(path: Path, number: int, line: bytes) -> ItemUpdate:
    try:
        values: dict[str, Any] = json.loads(line)
        items = tuple(NewItem(str(i["item_id"]), dict(i["texts"]), _vector(i["vector"])) for i in values["add"])
        return ItemUpdate(items, tuple(map(str, values["withdraw"])), tuple(map(str, values["restore"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}, line {number}: no change of items ({' '.join(str(error).split())}); mend or remove the line"
        ) from error


def _vector(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))
