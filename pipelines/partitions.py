"""Units of work that a stage hands to an executor: the inputs of each, and its output, which is written atomically.

Writes `OUT/KEY/`, one folder per partition, by one rename. KEY is a hash of everything that determines the contents, so
that an existing folder is reused, whichever process made it and however often the program was killed.
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
    """One unit of work: a name for messages, a hash of its rows, and parameters such as their path (JSON values)."""

    name: str
    content: str
    params: dict[str, Any]


class Shared(NamedTuple):
    """Parameters of all partitions: paths and plain configuration (JSON values).

    `content` is a hash of the configuration and of the files' contents, not of their paths. `version` is incremented by
    hand when the code produces different results.
    """

    params: dict[str, Any]
    content: str
    version: int = 1


Function = Callable[[Partition, Shared, Path, Tracker], None]
"""Computes a partition: (partition, shared, folder to write into, tracker)."""


class Task(NamedTuple):
    """A function as `module:name`, the parameters that its partitions share, and the folder of their outputs."""

    function: str
    shared: Shared
    out: Path

    @classmethod
    def of(cls, function: Function, shared: Shared, out: Path) -> Task:
        name = f"{function.__module__}:{function.__qualname__}"
        assert _function(name) is function, (
            f"{name} cannot be imported by another process; define it at the top level of a module"
        )
        return cls(name, shared, out.absolute())

    def folder(self, partition: Partition) -> Path:
        """The folder of the partition's committed output."""
        known = [self.function, self.shared.version, self.shared.content, partition.content]
        return self.out / text_sha256(json.dumps(known))[:32]

    def missing(self, partitions: Sequence[Partition]) -> list[Partition]:
        """The partitions without committed output, without duplicates."""
        return list({folder: p for p in partitions if not (folder := self.folder(p)).exists()}.values())

    def run(self, partition: Partition, tracker: Tracker) -> None:
        """Compute the partition and commit its output; if another process was faster, its output is kept.

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
        """Remove the incomplete outputs of killed processes.

        Each folder is renamed before it is deleted: a process that is still running (a task ends a little later than
        its interrupted driver) then finds no folder at all, and cannot commit one that is partly deleted.
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
    """Users in slices of `size`, in order; the histories of each slice are written to a parquet file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(part, start, folder) for start, part in _slices(histories, size)]


def written_partition(rows: pa.Table, content: str, name: str, folder: Path) -> Partition:
    """The partition of some rows, which are written to a parquet file in `folder` and have the hash `content`."""
    path = folder / f"{content[:32]}.parquet"
    if not path.exists():
        with replacing(path) as temporary:
            pq.write_table(rows, temporary)
    return Partition(name, content, {"rows": str(path.absolute())})


def read_histories(partition: Partition) -> Histories:
    """The histories of a partition from `user_partitions`."""
    table = pq.read_table(partition.params["rows"]).combine_chunks()
    if not len(table):
        return Histories.from_lists([], [])
    lists = table["items"].chunk(0)
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    items = np.array(lists.flatten())  # a copy, because torch needs writable memory
    return Histories(table["user_id"].to_pylist(), offsets, items)


def _slices(histories: Histories, size: int) -> Iterator[tuple[int, Histories]]:
    for start in range(0, len(histories), size):
        bounds = histories.indptr[start : start + size + 1]
        rows = histories.items[bounds[0] : bounds[-1]]
        yield start, Histories(histories.user_ids[start : start + size], bounds - bounds[0], rows)


def _written(part: Histories, start: int, folder: Path) -> Partition:
    digest = hashlib.sha256(json.dumps(part.user_ids).encode())
    digest.update(part.indptr.tobytes() + part.items.tobytes())
    items = pa.LargeListArray.from_arrays(pa.array(part.indptr), pa.array(part.items))
    rows = pa.table({"user_id": pa.array(part.user_ids, pa.string()), "items": items})
    return written_partition(rows, digest.hexdigest(), f"users {start}-{start + len(part) - 1}", folder)


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
