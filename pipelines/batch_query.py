"""`recsys query RUN --users TABLE --out FILE`: recommendations for many users, by what answers one.

Reads a finished run and a table of users; writes FILE (parquet: user_id, rank, item_id, score, notices) and, while it
is at work, the folder `.FILE.work` beside it. Users are ranked in partitions, each committed by a rename, so that the
same command continues after a kill; one with another run, table or number of items is refused until then.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import FOLDERS
from pipelines.config import stored_config
from pipelines.executors import LocalExecutor
from pipelines.partitions import Partition, Shared
from pipelines.recommend import answers_fingerprint, load_recommender
from pipelines.requests_table import request_partitions
from recsys.artifacts import RunDirectory, StageKey, StageRun
from recsys.errors import ConfigError, DataError, RecsysError
from recsys.files import fingerprint, link, read_json, replacing, text_sha256, write_json
from recsys.ranking.recommender import Answer, FittedRecommender, Request
from recsys.tables import Interactions
from recsys.tracking import Tracker

USERS = 2048  # ranked as one unit of work, as in the stage
STAGE, VERSION = "answers", 1
ANSWERS, COUNTS = "answers.parquet", "counts.json"
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "rank": pa.int32(),
        "item_id": pa.string(),
        "score": pa.float32(),
        "notices": pa.list_(pa.struct({"code": pa.string(), "message": pa.string()})),
    }
)
_NAMES = {"k": "-k", "users": "table of users", "run": "run"}


class Counts(NamedTuple):
    """Users, recommendations, users without any, and users with each notice."""

    users: int
    recommendations: int
    empty: int
    notices: dict[str, int]


def query_users(run: RunDirectory, users: Path, out: Path, *, k: int, tracker: Tracker) -> Counts:
    """Answer every user of a table, and write the answers to a file that is not there yet.

    Raises:
        ArtifactError: the run is not finished, or another process is at work on the same file.
        ConfigError: the file exists, or cannot be one.
        DataError: the table is not one of users.
    """
    _check_paths(users, out)
    inputs = {"run": answers_fingerprint(stored_config(run), run), "users": fingerprint(users)}
    key = StageKey(settings={"k": k}, code=VERSION, inputs=inputs)
    work = RunDirectory(out.with_name(f".{out.name}.work"), {STAGE: STAGE})
    shutil.rmtree(_dropped(work.path), ignore_errors=True)  # left by a kill
    finished = work.record(STAGE)
    earlier = finished.key if finished else work.unfinished(STAGE)
    if out.exists() and finished is None:
        raise ConfigError(f"{out} exists; give another --out, or delete it first")
    if earlier is not None and earlier != key:
        raise ConfigError(
            f"{work.path} has the unfinished answers of another {_changed(earlier, key)}; run that command again to "
            "finish them, give another --out, or delete the folder"
        )
    with work.lock():
        if finished is None:
            with work.stage(STAGE, key, ()) as stage:
                _answer(run, users, stage, key, tracker)
        if not out.exists():
            with replacing(out) as temporary:
                link(work.verified(STAGE) / ANSWERS, temporary)
        counts = Counts(**work.existing_record(STAGE).notes)
        _drop(work.path)
    return counts


def rank_requests(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    """Write the answers of a partition, and what there is to count of them."""
    rows, params = pl.read_parquet(partition.params["rows"]).rows(), shared.params
    requests = [Request(tuple(history), params["k"], user if params["named"] else None) for user, history in rows]
    answers = _recommender(params["run"]).recommend(requests)
    pq.write_table(_table([user for user, _ in rows], answers), out / ANSWERS)
    codes = Counter[str](code for answer in answers for code in {notice.code for notice in answer.notices})
    write_json(out / COUNTS, Counts(len(rows), sum(map(len, answers)), sum(not a for a in answers), codes)._asdict())


def _check_paths(users: Path, out: Path) -> None:
    if not users.exists():
        raise DataError(f"--users: {users} does not exist; give a parquet or csv file with a column user_id")
    if out.suffix != ".parquet":
        raise ConfigError(f"--out: got {out}; the answers are written as parquet, give a name that ends in .parquet")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {out.absolute().parent} does not exist; create it, or choose another")


def _changed(earlier: StageKey, key: StageKey) -> str:
    """What an earlier command was given otherwise."""
    before, now = earlier.settings | earlier.inputs, key.settings | key.inputs
    return " and ".join(_NAMES[name] for name in now if before.get(name) != now[name]) or "version of recsys"


def _drop(folder: Path) -> None:
    """Renamed before it is deleted, so that a kill leaves no folder that looks like work and lacks files."""
    dropped = _dropped(folder)
    shutil.rmtree(dropped, ignore_errors=True)
    folder.rename(dropped)
    shutil.rmtree(dropped)


def _dropped(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.dropped")


def _answer(run: RunDirectory, users: Path, stage: StageRun, key: StageKey, tracker: Tracker) -> None:
    interactions = Interactions.load(run.verified("prepare") / "interactions.parquet")
    try:
        requests = request_partitions(users, interactions, stage.work / "requests", size=USERS)
    except RecsysError:
        _drop(stage.directory.path)  # nothing is left of a table that is refused
        raise
    known = {"run": str(run.path), "named": requests.named, **key.settings}
    folders = LocalExecutor(1).map_partitions(
        rank_requests,
        requests.partitions,
        shared=Shared(known, text_sha256(json.dumps([key.model_dump(mode="json"), requests.named])), VERSION),
        out=stage.work / "ranked",
        tracker=tracker,
    )
    _recommender.cache_clear()
    with pq.ParquetWriter(stage.out / ANSWERS, SCHEMA, compression="zstd") as writer:
        for folder in folders:
            writer.write_table(pq.read_table(folder / ANSWERS))
    stage.notes.update(_total([read_json(folder / COUNTS) for folder in folders])._asdict())


@lru_cache(maxsize=1)
def _recommender(run: str) -> FittedRecommender:
    directory = RunDirectory(Path(run), FOLDERS)
    return load_recommender(stored_config(directory), directory)


def _table(user_ids: Sequence[str], answers: Sequence[Answer]) -> pa.Table:
    """A row a recommendation; a user without any has one row with neither rank nor item."""
    rows: list[dict[str, Any]] = []
    for user, answer in zip(user_ids, answers, strict=True):
        notices = [{"code": notice.code, "message": notice.message} for notice in answer.notices]
        own = {"user_id": user, "notices": notices}
        rows += [
            {**own, "rank": rank, "item_id": item.item_id, "score": item.score}
            for rank, item in enumerate(answer.items, start=1)
        ] or [own]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _total(parts: Sequence[dict[str, Any]]) -> Counts:
    notices = sum((Counter(part["notices"]) for part in parts), Counter[str]())
    users, recommendations, empty = (sum(part[name] for part in parts) for name in Counts._fields[:3])
    return Counts(users, recommendations, empty, dict(sorted(notices.items())))
