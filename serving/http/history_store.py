"""Users' interaction histories: `HistoryStore`, on SQLite by default and Redis by configuration.

`open_store` reads and writes the SQLite file or the Redis server that its URL names. A user id is bound as a parameter
or hashed into a key; it never becomes a path or part of a command.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from recsys.errors import ConfigError, DependencyError
from serving.runtime.database import BUSY_SECONDS, open_database

T = TypeVar("T")
SCHEMA = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_user ON events (user, position);
"""
TRIM = """
DELETE FROM events WHERE user = ?1 AND position <=
(SELECT position FROM events WHERE user = ?1 ORDER BY position DESC LIMIT 1 OFFSET ?2)
"""
INSERT = "INSERT INTO events (user, item) VALUES (?, ?)"
COUNT = "SELECT count(*) FROM events WHERE user = ?"
LATEST = "SELECT item FROM events WHERE user = ? ORDER BY position DESC LIMIT ?"
FILL = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('RPUSH', KEYS[1], unpack(ARGV))
return 1
"""


class StoreError(Exception):
    """The store does not answer now; the message holds no user data."""


class HistoryStore(Protocol):
    """The latest items of each user. Every call but `close` may raise StoreError."""

    async def append(self, user: str, item_ids: Sequence[str]) -> int:
        """Append items to a history, all or none; returns the number of items kept."""

    async def fill(self, histories: Collection[tuple[str, Sequence[str]]]) -> int:
        """Store the histories of those users who have none, all or none; returns their number."""

    async def read(self, user: str, limit: int) -> tuple[str, ...]:
        """The last `limit` items, the oldest first; empty for an unknown user."""

    async def forget(self, user: str) -> bool:
        """Delete a user's history; whether there was one."""

    async def close(self) -> None:
        """Close files and connections."""


def open_store(url: str, limit: int) -> HistoryStore:
    """The store of a URL: `sqlite:///PATH` (four slashes for an absolute one), `redis://`, `rediss://`, `unix://`.

    It keeps the last `limit` items of each user.

    Raises:
        ConfigError: another kind of URL, or a file that cannot be opened.
        DependencyError: the Redis client is not installed.
    """
    kind, _, path = url.partition("://")
    if kind == "sqlite" and path[1:]:
        return SqliteHistories(Path(path[1:]), limit)
    if kind in ("redis", "rediss", "unix"):
        return RedisHistories(url, limit)
    raise ConfigError(f"store: got '{kind}', allowed are sqlite:///PATH, redis://HOST:PORT/DB and unix://SOCKET")


class SqliteHistories:
    """One file, accessed by one thread; other processes may use the file too."""

    def __init__(self, path: Path, limit: int) -> None:
        """Create the file where it is missing; see `open_store` for errors."""
        self._limit = limit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="histories")
        self._database = open_database(path, SCHEMA, setting="store")

    async def append(self, user: str, item_ids: Sequence[str]) -> int:
        return await self._run(lambda database: self._appended(database, user, item_ids))

    async def fill(self, histories: Collection[tuple[str, Sequence[str]]]) -> int:
        return await self._run(lambda database: self._filled(database, histories))

    async def read(self, user: str, limit: int) -> tuple[str, ...]:
        rows = await self._run(lambda database: database.execute(LATEST, (user, limit)).fetchall())
        return tuple(item for (item,) in reversed(rows))

    async def forget(self, user: str) -> bool:
        return await self._run(
            lambda database: database.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount > 0
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        self._database.close()

    def _appended(self, database: sqlite3.Connection, user: str, item_ids: Sequence[str]) -> int:
        with database:  # commits, or rolls back on an error
            database.execute("BEGIN IMMEDIATE")
            rows = [(user, item_id) for item_id in item_ids]
            database.executemany(INSERT, rows)
            database.execute(TRIM, (user, self._limit))
            (length,) = database.execute(COUNT, (user,)).fetchone()
        return int(length)

    def _filled(self, database: sqlite3.Connection, histories: Collection[tuple[str, Sequence[str]]]) -> int:
        with database:
            database.execute("BEGIN IMMEDIATE")
            new = [each for each in histories if not database.execute(COUNT, (each[0],)).fetchone()[0]]
            rows = [(user, item_id) for user, item_ids in new for item_id in item_ids[-self._limit :]]
            database.executemany(INSERT, rows)
        return len(new)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        due = time.monotonic() + BUSY_SECONDS

        def in_time() -> T:
            if time.monotonic() > due:  # queued behind a locked file for so long that the client has given up
                raise TimeoutError
            return work(self._database)

        with _unanswered(sqlite3.Error, TimeoutError):
            return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)


class RedisHistories:
    """One list per user on a Redis server. The next call reconnects after a lost connection; no command is repeated."""

    def __init__(self, url: str, limit: int) -> None:
        """The first call connects; see `open_store` for errors."""
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
        except ImportError as error:
            raise DependencyError("Redis needs its client; install it with `pip install 'recsys[redis]'`") from error
        once = Retry(NoBackoff(), 0)
        try:
            self._client = Redis.from_url(
                url, decode_responses=True, retry=once, socket_timeout=BUSY_SECONDS, socket_connect_timeout=BUSY_SECONDS
            )
        except ValueError as error:
            raise ConfigError(f"store: {error}; allowed are redis://HOST:PORT/DB and unix://SOCKET") from error
        self._limit, self._errors = limit, (RedisError, OSError)

    async def append(self, user: str, item_ids: Sequence[str]) -> int:
        with _unanswered(*self._errors):
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.rpush(_key(user), *item_ids)
                pipeline.ltrim(_key(user), -self._limit, -1)
                pipeline.llen(_key(user))
                return int((await pipeline.execute())[-1])

    async def fill(self, histories: Collection[tuple[str, Sequence[str]]]) -> int:
        with _unanswered(*self._errors):
            async with self._client.pipeline() as pipeline:
                for user, item_ids in histories:
                    pipeline.eval(FILL, 1, _key(user), *item_ids[-self._limit :])
                return sum(await pipeline.execute())

    async def read(self, user: str, limit: int) -> tuple[str, ...]:
        with _unanswered(*self._errors):
            items = await self._client.lrange(_key(user), -limit, -1)
        return tuple(str(item) for item in items)

    async def forget(self, user: str) -> bool:
        with _unanswered(*self._errors):
            return bool(await self._client.delete(_key(user)))

    async def close(self) -> None:
        await self._client.aclose()


@contextmanager
def _unanswered(*errors: type[Exception]) -> Iterator[None]:
    """Convert a client's errors to StoreError, without its text: it could hold user data."""
    try:
        yield
    except errors as error:
        raise StoreError(f"the history store does not answer ({type(error).__name__}); try again") from error


def _key(user: str) -> str:
    return f"recsys:history:{hashlib.sha256(user.encode()).hexdigest()}"
