"""One contract for every history store, and its durability when a process or a server is killed."""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from recsys.errors import ConfigError, DependencyError
from serving.http import history_store as histories
from serving.http.history_store import HistoryStore, StoreError, open_store
from tests.serving.endpoints import endpoint

ROOT = Path(__file__).parent.parent.parent.parent
REDIS = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")
LIMIT = 50
ODD = ["a b", "ü", "日本", "👩‍👩‍👧", "'; DROP TABLE events; --", "a\r\nDEL x", "%s", "\x00", "a\x00b", "*", "x" * 256]
WRITER = """
import asyncio, sys
from serving.http.history_store import open_store

async def main():
    store = open_store(sys.argv[1], 1000)
    for number in range(100000):
        length = await store.append("user", [f"{number}a", f"{number}b"])
        print(number, flush=True)

asyncio.run(main())
"""


class RedisServer:
    """A real server on a socket of its own, which keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        command = [str(REDIS), "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self.socket.parent)
        assert self.process.stdout is not None
        assert any("eady to accept connections" in line for line in self.process.stdout)
        # Its log goes on, and the pipe must not fill.
        self.reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.reader.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    # The path of a socket may have about a hundred characters, and pytest's folders are long.
    with TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    pytest.importorskip("redis", reason="the Redis client is not installed")
    with redis_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/histories.sqlite"
    server: RedisServer = request.getfixturevalue("redis")
    from redis import Redis

    with Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


def using(url: str, work: Callable[[HistoryStore], Awaitable[None]], limit: int = LIMIT) -> None:
    """Do something with an open store."""

    async def main() -> None:
        store = open_store(url, limit)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def test_only_users_without_a_history_are_filled(url: str) -> None:
    histories = [("ann", ["a", "b"]), ("'; --", ["c"]), ("bob", [f"i{n}" for n in range(LIMIT + 3)])]

    async def work(store: HistoryStore) -> None:
        await store.append("ann", ["z"])
        assert await store.fill(histories) == 2
        assert await store.fill(histories) == 0
        assert await store.fill([]) == 0
        assert await store.read("ann", 10) == ("z",)
        assert await store.read("'; --", 10) == ("c",)
        assert await store.read("bob", 1000) == tuple(f"i{n}" for n in range(3, LIMIT + 3))
        assert await store.append("bob", ["last"]) == LIMIT
        assert await store.read("bob", 2) == (f"i{LIMIT + 2}", "last")

    using(url, work)


def test_order_is_kept_and_the_latest_are_read(url: str) -> None:
    async def work(store: HistoryStore) -> None:
        assert await store.read("ann", 10) == ()
        assert await store.append("ann", ["b", "a"]) == 2
        assert await store.append("ann", ["a"]) == 3
        assert await store.append("bob", ["z"]) == 1
        assert await store.read("ann", 10) == ("b", "a", "a")
        assert await store.read("ann", 2) == ("a", "a")
        assert await store.read("bob", 10) == ("z",)

    using(url, work)


def test_only_so_many_are_kept(url: str) -> None:
    async def work(store: HistoryStore) -> None:
        assert await store.append("ann", [str(n) for n in range(LIMIT - 1)]) == LIMIT - 1
        assert await store.append("ann", ["x", "y", "z"]) == LIMIT
        assert await store.read("ann", 1000) == (*(str(n) for n in range(2, LIMIT - 1)), "x", "y", "z")
        assert await store.append("ann", [str(n) for n in range(3 * LIMIT)]) == LIMIT
        assert await store.read("ann", 1) == (str(3 * LIMIT - 1),)

    using(url, work)


def test_a_user_is_forgotten(url: str) -> None:
    async def work(store: HistoryStore) -> None:
        await store.append("ann", ["a"])
        await store.append("bob", ["b"])
        assert await store.forget("ann") is True
        assert await store.forget("ann") is False
        assert await store.read("ann", 10) == ()
        assert await store.read("bob", 10) == ("b",)

    using(url, work)


def test_any_name_is_only_a_name(url: str) -> None:
    async def work(store: HistoryStore) -> None:
        for user in ODD:
            assert await store.append(user, [user, *ODD]) == len(ODD) + 1
        for user in ODD:
            assert await store.read(user, 1000) == (user, *ODD)
        assert await store.read("", 10) == ()

    using(url, work)


def test_concurrent_appends_lose_nothing(url: str) -> None:
    async def work(store: HistoryStore) -> None:
        async def append(writer: int) -> None:
            for number in range(20):
                await store.append("ann", [f"{writer}-{number}a", f"{writer}-{number}b"])

        await asyncio.gather(*(append(writer) for writer in range(10)))
        kept = await store.read("ann", 1000)
        assert len(kept) == 400
        for writer in range(10):
            own = [item for item in kept if item.startswith(f"{writer}-")]
            assert own == [f"{writer}-{number}{half}" for number in range(20) for half in "ab"]
        assert all(kept[n][:-1] == kept[n + 1][:-1] for n in range(0, 400, 2)), "an append is all or none"

    using(url, work, limit=1000)


def test_a_store_outlives_its_process(url: str) -> None:
    async def write(store: HistoryStore) -> None:
        await store.append("ann", ["a"])

    async def read(store: HistoryStore) -> None:
        assert await store.read("ann", 10) == ("a",)

    using(url, write)
    using(url, read)


def test_two_processes_share_a_store(url: str) -> None:
    async def work(store: HistoryStore) -> None:
        other = open_store(url, LIMIT)
        try:
            await asyncio.gather(*(each.append("ann", ["a"]) for each in (store, other) for _ in range(20)))
            assert len(await store.read("ann", 1000)) == 40
        finally:
            await other.close()

    using(url, work)


def test_sqlite_keeps_all_that_was_acknowledged_when_its_writer_is_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/histories.sqlite"
    command = [sys.executable, "-c", WRITER, url]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout is not None
    numbers_read = [int(writer.stdout.readline()) for _ in range(60)]
    writer.send_signal(signal.SIGKILL)
    numbers_read += [int(line) for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()

    async def work(store: HistoryStore) -> None:
        kept = await store.read("user", 1000)
        numbers = [int(item[:-1]) for item in kept]
        assert [item[-1] for item in kept] == ["a", "b"] * (len(kept) // 2)
        assert numbers == sorted(numbers)
        assert set(numbers_read[-400:]) <= set(numbers)
        assert await store.append("user", ["later"]) <= 1000

    using(url, work, limit=1000)


def test_sqlite_says_so_when_its_file_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "BUSY_SECONDS", 0.01)

    async def work(store: HistoryStore) -> None:
        holder = sqlite3.connect(tmp_path / "histories.sqlite")
        holder.execute("BEGIN EXCLUSIVE")
        try:
            with pytest.raises(StoreError, match=r"does not answer \(OperationalError\)"):
                await store.append("ann", ["a"])
        finally:
            holder.close()
        assert await store.append("ann", ["a"]) == 1

    using(f"sqlite:///{tmp_path}/histories.sqlite", work)


def test_calls_queued_behind_a_locked_file_fail_and_are_not_executed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "BUSY_SECONDS", 0.05)

    async def work(store: HistoryStore) -> None:
        holder = sqlite3.connect(tmp_path / "histories.sqlite")
        holder.execute("BEGIN EXCLUSIVE")
        try:
            found = await asyncio.gather(*(store.append("ann", ["a"]) for _ in range(20)), return_exceptions=True)
        finally:
            holder.close()
        assert {type(error) for error in found} == {StoreError}
        assert await store.append("ann", ["b"]) == 1

    using(f"sqlite:///{tmp_path}/histories.sqlite", work)


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    async def work(store: HistoryStore) -> None:
        await store.append("ann", ["a"])
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / "own").iterdir()} == {0o600}

    using(f"sqlite:///{tmp_path}/own/histories.sqlite", work)


def test_a_forgotten_history_is_overwritten_in_the_file(tmp_path: Path) -> None:
    async def write(store: HistoryStore) -> None:
        await store.append("ann", [f"SECRET-{n}" for n in range(50)])

    async def forget(store: HistoryStore) -> None:
        await store.forget("ann")

    url = f"sqlite:///{tmp_path}/histories.sqlite"
    using(url, write, limit=1000)
    assert b"SECRET-" in (tmp_path / "histories.sqlite").read_bytes()
    using(url, forget, limit=1000)
    assert not [file for file in tmp_path.iterdir() if b"SECRET-" in file.read_bytes()]


def test_an_unusable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, whatever it is called " * 10)
    with pytest.raises(ConfigError, match="name a new file"):
        open_store(f"sqlite:///{tmp_path}/text", LIMIT)
    with pytest.raises(ConfigError, match="cannot be used"):
        open_store(f"sqlite:///{tmp_path}", LIMIT)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "mysql://user:secret@host", "histories.sqlite", ""])
def test_another_store_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="allowed are sqlite:///PATH") as caught:
        open_store(url, LIMIT)
    assert "secret" not in str(caught.value)


def test_without_its_client_redis_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(DependencyError, match=r"pip install 'recsys\[redis\]'"):
        open_store("redis://localhost", LIMIT)


@needs_redis
def test_redis_may_be_restarted() -> None:
    pytest.importorskip("redis", reason="the Redis client is not installed")
    with redis_server() as server:

        async def work(store: HistoryStore) -> None:
            assert await store.append("ann", ["a"]) == 1
            server.stop()
            with pytest.raises(StoreError, match="does not answer"):
                await store.append("ann", ["b"])
            with pytest.raises(StoreError, match="does not answer"):
                await store.read("ann", 1)
            server.start()
            assert await store.append("ann", ["c"]) == 1
            assert await store.read("ann", 10) == ("c",)

        using(server.url, work)


@needs_redis
def test_the_endpoint_lives_through_a_restart_of_redis(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="the Redis client is not installed")
    event = {"user_id": "ann", "item_ids": ["i3"]}

    async def main(server: RedisServer) -> None:
        with endpoint(tmp_path, store=open_store(server.url, LIMIT)) as parts:
            async with parts.client() as client:
                assert (await client.post("/v1/events", json=event)).json()["length"] == 1
                server.stop()
                refused = await client.post("/v1/events", json=event)
                assert refused.status_code == 503
                assert "\n" not in refused.json()["error"]["message"]
                answer = (await client.post("/v1/recommend", json={"user_id": "ann"})).json()
                assert (answer["degraded"], answer["reason"]) == (True, "history store unavailable")
                server.start()
                assert (await client.post("/v1/events", json=event)).json()["length"] == 1
                answer = (await client.post("/v1/recommend", json={"user_id": "ann", "k": 1})).json()
                assert (answer["items"][0]["item_id"], answer["degraded"]) == ("i4", False)
            await parts.store.close()

    with redis_server() as server:
        asyncio.run(main(server))
