"""The table of users that `recsys query --users` answers: read, checked, and cut into partitions of requests.

Reads parquet, csv or any other table that an import takes, with a column `user_id` and, where histories are not those
of the run, `history`. Writes one parquet file (user_id, history) a partition. A table may be longer than memory: the
users' ids are held, and the histories of one partition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow.parquet as pq

from pipelines.history_option import parse_history
from pipelines.partitions import Partition, written_partition
from recsys.data.delimited import Layout
from recsys.data.histories import item_lists
from recsys.data.opening import Table
from recsys.data.raw import Rejects
from recsys.errors import ConfigError, DataError
from recsys.tables import Interactions, identifier

USER, HISTORY = "user_id", "history"
_UNUSABLE = "unusable"
_NEEDED = f"give one row a user: {USER} (of the run), or {USER} and {HISTORY} (item ids, oldest first)"


class RequestPartitions(NamedTuple):
    """Users with their histories; `named` are those whose histories are the run's: the others' ids are labels alone."""

    partitions: list[Partition]
    named: bool


def request_partitions(path: Path, interactions: Interactions, folder: Path, *, size: int) -> RequestPartitions:
    """The requests of a table, in its order, `size` or fewer a partition; their files are written into `folder`.

    Args:
        interactions: of the run, whose users are asked for where the table has no histories.

    Raises:
        DataError: there is no such table, a row has no id, a user has several rows or is unknown, or a history is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, has_histories = _copy(path, folder)
    known = None if has_histories else item_lists(interactions)
    _check(path, pl.concat([pl.read_parquet(file, columns=[USER, _UNUSABLE]) for file in files]), known)
    partitions, start = list[Partition](), 0
    for frame in _slices(files, size):
        if known is not None:
            rows = frame.join(known.rename({"item_id": HISTORY}), on=USER, how="left", maintain_order="left")
        else:
            rows = _parsed(path, frame)
        partitions.append(_written(rows.select(USER, HISTORY), start, folder))
        start += rows.height
    for file in files:
        file.unlink()
    return RequestPartitions(partitions, known is not None)


def _copy(path: Path, folder: Path) -> tuple[list[Path], bool]:
    """The table as parquet files, whatever it was, and whether it has histories."""
    rejects = Rejects(limit=1)
    table = Table(path, Layout(expected=(USER, HISTORY)), rejects)
    has_histories = any(HISTORY in schema for schema in table.schemas)
    table.require([USER, HISTORY] if has_histories else [USER], _NEEDED)
    files = table.write(lambda schema: _columns(path, schema, has_histories=has_histories), folder)
    if len(rejects):
        row = rejects.rows[0]
        raise DataError(
            f"{path}: {len(rejects)} rows cannot be read, the first is row {row['row']} ({row['reason']}); "
            "correct the file"
        )
    return files, has_histories


def _columns(path: Path, schema: pl.Schema, *, has_histories: bool) -> list[pl.Expr]:
    try:
        text, inexact = identifier(USER, schema[USER])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    columns = [text.alias(USER), (inexact | text.is_null()).alias(_UNUSABLE)]
    if not has_histories:
        return columns
    dtype = schema[HISTORY]
    if isinstance(dtype, pl.List) and (dtype.inner == pl.String or dtype.inner == pl.Null or dtype.inner.is_integer()):
        return [*columns, pl.col(HISTORY).cast(pl.List(pl.String))]
    if dtype == pl.String:
        return [*columns, pl.col(HISTORY)]
    raise DataError(
        f"{path}: column '{HISTORY}' is {dtype}; a history is a list of item ids, or text as `--history` takes it "
        "(ID,ID,... or a JSON list)"
    )


def _check(path: Path, ids: pl.DataFrame, known: pl.DataFrame | None) -> None:
    if not ids.height:
        raise DataError(f"{path} has no rows; {_NEEDED}")
    if ids[_UNUSABLE].any():
        row = int(ids[_UNUSABLE].arg_max() or 0)
        raise DataError(f"{path}: row {row + 1} has no {USER} that is text or a whole number; {_NEEDED}")
    repeated = ids.filter(pl.col(USER).is_duplicated())[USER]
    if len(repeated):
        raise DataError(
            f"{path}: {repeated.n_unique()} users have more than one row, the first is {repeated[0][:100]!r}; "
            "keep one row a user"
        )
    unknown = ids.head(0) if known is None else ids.join(known, on=USER, how="anti", maintain_order="left")
    if known is not None and unknown.height:
        raise DataError(
            f"{path}: {unknown.height} of {ids.height} users are not among the {known.height} users of the run, the "
            f"first is {unknown[USER][0][:100]!r}; leave them out, or add a column {HISTORY} with item ids"
        )


def _slices(files: Sequence[Path], size: int) -> Iterator[pl.DataFrame]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=size):
            yield pl.DataFrame(batch)


def _parsed(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Histories as lists of ids, however they are written; none is an empty one."""
    lists: list[list[str]] = []
    for user, history in frame.select(USER, HISTORY).iter_rows():
        try:
            ids = parse_history([history]) if isinstance(history, str) else history or ()
        except ConfigError as error:
            raise DataError(f"{path}, user {user[:100]!r}: {error}") from error
        if None in ids:
            raise DataError(
                f"{path}, user {user[:100]!r}: an id of the history is missing; leave it out, or fill it in"
            )
        lists.append([item.strip() for item in ids])
    return frame.with_columns(pl.Series(HISTORY, lists, dtype=pl.List(pl.String)))


def _written(rows: pl.DataFrame, start: int, folder: Path) -> Partition:
    digest = hashlib.sha256(json.dumps(rows.rows()).encode()).hexdigest()
    return written_partition(rows.to_arrow(), digest, f"users {start}-{start + rows.height - 1}", folder)
