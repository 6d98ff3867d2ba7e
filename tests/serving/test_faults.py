"""A served bundle as a separate process under load and faults: no admitted request is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines.bundling import bundle_run
from pipelines.config import stored_config
from serving.client import ApiError, Client
from tests.benchmarks.load import Counted, Pool, at_rate, post
from tests.pipelines.finished import finished

pytestmark = pytest.mark.slow
USERS = [f"u{n}" for n in range(12)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of two runs, which recommend differently."""
    made = []
    for number in range(2):
        with finished(f"seed={number}") as run:
            out = tmp_path_factory.mktemp("bundles") / str(number)
            made.append(bundle_run(run, stored_config(run), out).folder)
    return made


class Served(NamedTuple):
    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def serving(bundle: Path, home: Path, *options: str) -> Iterator[Served]:
    """`recsys serve` on a free port, its state in `home`."""
    code = "from pipelines.cli import main; main()"
    settings = [
        "--store",
        f"sqlite:///{home / 'histories.sqlite'}",
        "--set",
        f"serve.item_updates={home / 'changes.jsonl'}",
    ]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(bundle), "--port", "0", *settings, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " answers at " in line, (home / "log").read_text()
        yield Served(line.rsplit(" ", 1)[1].strip(), process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def asked(users: list[str]) -> list[bytes]:
    histories = [[f"P0000{n % 9}", f"P0000{n % 7 + 1}"] for n in range(len(users))]
    bodies = [{"user_id": user, "history": items, "k": 5} for user, items in zip(users, histories, strict=True)]
    return [post("/v1/recommend", body) for body in bodies]


def items_of(body: bytes) -> tuple[str, ...]:
    return tuple(item["item_id"] for item in json.loads(body)["items"])


Check = Callable[[int, int, bytes], None]


async def load(served: Served, check: Check, meanwhile: Callable[[], Awaitable[object]], *, clients: int = 6) -> None:
    """Every user's request on and on from several clients while something happens; `check` gets the user's number."""
    done, requests = asyncio.Event(), asked(USERS)

    async def client(turn: int) -> None:
        while not done.is_set():
            user = turn % len(USERS)
            check(user, *await pool.send(requests[user]))
            turn += clients

    async with Pool(served.port) as pool:
        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        try:
            await meanwhile()
        finally:
            done.set()
            await asyncio.gather(*tasks)


async def each(served: Served) -> list[tuple[str, ...]]:
    """What every user is recommended."""
    async with Pool(served.port) as pool:
        return [items_of((await pool.send(request))[1]) for request in asked(USERS)]


def test_a_reload_under_load_gives_no_error_and_every_answer_is_one_bundle_s(
    bundles: list[Path], tmp_path: Path
) -> None:
    with serving(bundles[0], tmp_path) as served, Client(served.url) as client:
        first = client.version().bundle
        expected = {first: asyncio.run(each(served))}
        second = client.reload(str(bundles[1])).bundle
        expected[second] = asyncio.run(each(served))
        client.rollback()
        assert first != second
        assert expected[first] != expected[second]
        statuses: Counter[int] = Counter()
        bundles_seen: set[str] = set()
        wrong: list[dict[str, Any]] = []

        def check(user: int, status: int, body: bytes) -> None:
            answer = json.loads(body)
            statuses[status] += 1
            bundles_seen.add(answer["bundle"])
            if answer["tier"] == "full" and items_of(body) != expected[answer["bundle"]][user]:
                wrong.append(answer)

        async def reload_and_back() -> None:
            await asyncio.to_thread(client.reload, str(bundles[1]))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(client.rollback)
            with pytest.raises(ApiError, match="neither a bundle nor a run"):
                await asyncio.to_thread(client.reload, str(tmp_path / "nowhere"))

        asyncio.run(load(served, check, reload_and_back))
        assert statuses.keys() == {200}
        assert bundles_seen == {first, second}
        assert not wrong
        assert client.version().bundle == first


def test_sigterm_under_load_loses_no_admitted_request(bundles: list[Path], tmp_path: Path) -> None:
    with serving(bundles[0], tmp_path) as served:
        counted: list[int] = []

        async def terminate() -> None:
            await asyncio.sleep(0.5)
            served.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(served.process.wait, 60)

        asyncio.run(load(served, lambda _, status, __: counted.append(status), terminate))
        assert served.process.returncode == 0
        assert 200 in counted
        stopped = counted.index(next(status for status in counted if status != 200))
        assert set(counted[stopped:]) <= {0, 200, 503}, "refused, or not listening any more; never cut off in between"


def test_kill_9_loses_nothing_that_was_confirmed(bundles: list[Path], tmp_path: Path) -> None:
    with serving(bundles[0], tmp_path) as served, Client(served.url) as client:
        client.update_items(withdraw=["P00003"])
        confirmed = 0

        async def kill() -> None:
            await asyncio.sleep(0.5)
            served.process.kill()

        async def write() -> None:
            nonlocal confirmed
            event = post("/v1/events", {"user_id": "ann", "item_ids": ["P00001"]})
            async with Pool(served.port) as pool:
                while (await pool.send(event))[0] == 200:
                    confirmed += 1

        async def both() -> None:
            await asyncio.gather(write(), kill())

        asyncio.run(both())
        assert confirmed > 0
    with serving(bundles[0], tmp_path) as served, Client(served.url) as client:
        assert len(client.history("ann").history) in (confirmed, confirmed + 1)
        assert client.item("P00003").withdrawn
        answer = client.recommend(user_id="ann", k=50)
        assert "P00003" not in [item.item_id for item in answer.items]


def test_far_too_much_is_answered_or_refused_and_leaves_a_healthy_server(bundles: list[Path], tmp_path: Path) -> None:
    with serving(bundles[0], tmp_path, "--set", "serve.max_in_flight=16") as served, Client(served.url) as client:
        found: Counted = asyncio.run(at_rate(served.port, asked(USERS), rate=400, seconds=2))
        assert set(found.codes) <= {200, 503}
        assert found.codes[200] > 0
        assert client.recommend(history=["P00001"], k=5).items
        assert client.ready()
