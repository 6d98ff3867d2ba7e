"""Partitions: units of work of a stage, and their outputs, which are committed atomically.

Writes `OUT/KEY/`, one folder a partition, by one rename; KEY is a hash of everything that determines its contents, so
that an existing folder is never computed again, also after a kill.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import RecsysError
from recsys.files import publish_folder, replacing, text_sha256
from recsys.tables import Histories
from recsys.tracking import NullTracker, Tracker


class Partition(NamedTuple):
    """A unit of work: a display name, a hash of its input rows, and parameters (JSON values) such as their path."""

    name: str
    content: str
    params: dict[str, Any]


class Shared(NamedTuple):
    """Parameters of all partitions: paths and plain configuration.

    `content` is a hash of the configuration and of the contents at the paths; `version` is incremented by hand when
    the code gives other results.
    """

    params: dict[str, Any]
    content: str
    version: int = 1


Function = Callable[[Partition, Shared, Path, Tracker], None]
"""The work on a partition; writes files into the given folder."""


class Task(NamedTuple):
    """A function by its name `module:name`, the parameters of all partitions, and the folder of outputs."""

    function: str
    shared: Shared
    out: Path

    @classmethod
    def of(cls, function: Function, shared: Shared, out: Path) -> Task:
        name = f"{function.__module__}:{function.__qualname__}"
        assert _function(name) is function, f"{name} cannot be imported by another process; move it to a module's top"
        return cls(name, shared, out.absolute())

    def folder(self, partition: Partition) -> Path:
        """The folder of the partition's committed output."""
        known = [self.function, self.shared.version, self.shared.content, partition.content]
        return self.out / text_sha256(json.dumps(known))[:32]

    def missing(self, partitions: Sequence[Partition]) -> list[Partition]:
        """The partitions without committed output, each once."""
        return list({folder: p for p in partitions if not (folder := self.folder(p)).exists()}.values())

    def run(self, partition: Partition, tracker: Tracker) -> None:
        """Compute and commit the partition's output; an output committed meanwhile by another process is kept.

        Raises:
            RecsysError: from the function, with the partition's name before the message.
        """
        target = self.folder(partition)
        temporary = self._hidden(target.name)
        temporary.mkdir(parents=True)
        try:
            _function(self.function)(partition, self.shared, temporary, tracker)
            _commit(temporary, target)
        except RecsysError as error:
            raise type(error)(f"partition {partition.name}: {error}") from error
        except Exception as error:
            error.add_note(f"in partition {partition.name}")
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def sweep(self) -> None:
        """Remove unfinished outputs of killed processes.

        Each is renamed first, so that a process that is still running (a task outlives its interrupted driver for a
        moment) cannot commit a partly removed folder.
        """
        for path in self.out.glob(".*") if self.out.exists() else ():
            taken = self._hidden("swept")
            with suppress(FileNotFoundError):
                path.rename(taken)
                shutil.rmtree(taken, ignore_errors=True)

    def _hidden(self, name: str) -> Path:
        """A unique path beside the outputs."""
        return self.out / f".{name}.{secrets.token_hex(8)}"


def run_partition(task: Task, partition: Partition) -> None:
    """`Task.run` in a worker process, without progress."""
    task.run(partition, NullTracker())


def user_partitions(histories: Histories, folder: Path, *, size: int) -> list[Partition]:
    """Slices of `size` users, in order; each slice's histories are written to a parquet file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(part, start, folder) for start, part in _slices(histories, size)]


def read_histories(partition: Partition) -> Histories:
    """The users of a partition that `user_partitions` made."""
    table = pq.read_table(partition.params["histories"]).combine_chunks()
    if not len(table):
        return Histories.from_lists([], [])
    lists = table["items"].chunk(0)
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    items = np.array(lists.flatten())  # a copy, as torch needs writable memory
    return Histories(table["user_id"].to_pylist(), offsets, items)


def _slices(histories: Histories, size: int) -> Iterator[tuple[int, Histories]]:
    for start in range(0, len(histories), size):
        bounds = histories.indptr[start : start + size + 1]
        rows = histories.items[bounds[0] : bounds[-1]]
        yield start, Histories(histories.user_ids[start : start + size], bounds - bounds[0], rows)


def _written(part: Histories, start: int, folder: Path) -> Partition:
    digest = hashlib.sha256(json.dumps(part.user_ids).encode())
    digest.update(part.indptr.tobytes() + part.items.tobytes())
    path = folder / f"{digest.hexdigest()[:32]}.parquet"
    if not path.exists():
        items = pa.LargeListArray.from_arrays(pa.array(part.indptr), pa.array(part.items))
        with replacing(path) as temporary:
            pq.write_table(pa.table({"user_id": pa.array(part.user_ids, pa.string()), "items": items}), temporary)
    name = f"users {start}-{start + len(part) - 1}"
    return Partition(name, digest.hexdigest(), {"histories": str(path.absolute())})


def _commit(temporary: Path, target: Path) -> None:
    try:
        publish_folder(temporary, target)
    except OSError:
        if not target.exists():
            raise


def _function(name: str) -> Function:
    module, _, attribute = name.partition(":")
    function: Function = getattr(import_module(module), attribute)
    return function
