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

from recsys.errors import ArtifactError, DataError
from serving.interface import Engine, NewItem

logger = logging.getLogger(__name__)


class ItemChange(NamedTuple):
    """Items to add, then ids to withdraw, then withdrawn ids to restore."""

    add: tuple[NewItem, ...] = ()
    withdraw: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()

    def steps(self) -> list[ItemChange]:
        """One of them at a time."""
        steps = [ItemChange(add=self.add), ItemChange(withdraw=self.withdraw), ItemChange(restore=self.restore)]
        return [step for step in steps if any(step)]


class Changes:
    """All changes so far, in order; `lock` is held by whoever applies one, or puts an engine in another's place."""

    def __init__(self, path: Path | None = None) -> None:
        """Those in a file, which the first change creates; without one they last as long as the process.

        Raises:
            ArtifactError: the file holds something else.
        """
        self.lock = threading.RLock()
        self._path = path
        self._made: list[ItemChange] = [] if path is None else _read(path)

    def apply(self, engine: Engine, change: ItemChange) -> None:
        """Change the engine that answers, and keep what was done.

        Raises:
            DataError: the engine refuses a step; those before it are done, and said to be.
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
                self._keep(step)
                done.append(name)

    def replay(self, engine: Engine) -> None:
        """Have an engine be as if all changes had been made to it, as far as they fit its items."""
        with self.lock:
            for change in self._made:
                for item in change.add:
                    if _withdrawn(engine, item.item_id) is None:
                        _try(engine, item)
                engine.withdraw([i for i in change.withdraw if _withdrawn(engine, i) is False])
                engine.restore([i for i in change.restore if _withdrawn(engine, i)])

    def _keep(self, change: ItemChange) -> None:
        self._made.append(change)
        if self._path is None:
            return
        line = json.dumps(change._asdict() | {"add": [item.__dict__ for item in change.add]})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())


def _do(engine: Engine, step: ItemChange) -> None:
    engine.add(step.add)
    engine.withdraw(step.withdraw)
    engine.restore(step.restore)


def _withdrawn(engine: Engine, item_id: str) -> bool | None:
    """Whether an item is withdrawn; None where the engine does not have it."""
    try:
        return engine.item(item_id).withdrawn
    except DataError:
        return None


def _try(engine: Engine, item: NewItem) -> None:
    """An item that a new bundle cannot take (its texts have other columns, its vectors another width) stays out."""
    try:
        engine.add([item])
    except DataError as error:
        logger.warning("a live item is left out of the new bundle: %s", error)


def _read(path: Path) -> list[ItemChange]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, torn = text.rpartition("\n")
    if torn:  # a kill came between the line and its end: the change was not confirmed
        logger.warning("%s ends in half a line, which is left out", path)
        with path.open("r+b") as file:
            file.truncate(len(path.read_bytes()) - len(path.read_bytes().rpartition(b"\n")[2]))
    return [_parsed(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]


def _parsed(path: Path, number: int, line: str) -> ItemChange:
    try:
        values: dict[str, Any] = json.loads(line)
        items = tuple(NewItem(str(i["item_id"]), dict(i["texts"]), _vector(i["vector"])) for i in values["add"])
        return ItemChange(items, tuple(map(str, values["withdraw"])), tuple(map(str, values["restore"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}, line {number}: no change of items ({' '.join(str(error).split())}); mend or remove the line"
        ) from error


def _vector(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))
