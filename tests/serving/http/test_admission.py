"""Admission: which requests are refused, and that refusals cost nothing: no body is read, no key compared."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from serving.config import ServeConfig
from serving.http.admission import Admission, Gate
from serving.http.auth import AuthHeaders
from serving.http.keys import Keys, create_key
from serving.runtime.metrics import Metrics

Event = dict[str, Any]
HOST = (b"host", b"localhost:8000")


class Client:
    """One request: what it sends, and what it gets."""

    def __init__(
        self,
        path: str = "/v1/recommend",
        *,
        body: Iterable[bytes] = (b"{}",),
        headers: Iterable[Any] = (),
        method: str = "POST",
    ) -> None:
        self.scope: Event = {"type": "http", "method": method, "path": path, "headers": [HOST, *headers]}
        self.parts = list(body)
        self.sent: list[Event] = []
        self.reads = 0
        self.stalls = asyncio.Event()  # what comes after the parts: nothing, until this is set, then a disconnect
        self.endless = False

    async def receive(self) -> Event:
        self.reads += 1
        if self.parts:
            part = self.parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts) or self.endless}
        await self.stalls.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        self.sent.append(event)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def code(self) -> str:
        return str(json.loads(self.sent[1]["body"])["error"]["code"])

    def header(self, name: bytes) -> bytes | None:
        return dict(self.sent[0]["headers"]).get(name)


class Application:
    """Notes what reaches it; `held` keeps requests inside."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.cancelled = 0
        self.entered, self.held = asyncio.Event(), asyncio.Event()
        self.held.set()

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self.entered.set()
        if scope["path"] not in ("/livez", "/readyz"):
            self.bodies.append((await receive())["body"])
            try:
                await self.held.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


class Door:
    """An admission before an application."""

    def __init__(self, keys: Keys | None = None, **settings: Any) -> None:
        self.config = ServeConfig(**settings)
        self.inside, self.gate, self.metrics = Application(), Gate(self.config.max_in_flight), Metrics()
        self.admission = Admission(self.inside, self.config, self.gate, self.metrics, keys)

    async def ask(self, client: Client) -> Client:
        await self.admission(client.scope, client.receive, client.send)
        return client

    def shown(self) -> str:
        return self.metrics.render()[0].decode()


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {token}".encode()


def test_a_request_passes_with_its_whole_body() -> None:
    async def main() -> None:
        door = Door()
        client = await door.ask(Client(body=[b"a", b"b" * 100, b"c"]))
        assert client.status == 200
        assert door.inside.bodies == [b"a" + b"b" * 100 + b"c"]
        assert door.gate.in_flight == 0
        assert "recsys_in_flight 0.0" in door.shown()

    asyncio.run(main())


def test_a_full_server_refuses_without_reading() -> None:
    async def main() -> None:
        door = Door(max_in_flight=2)
        door.inside.held.clear()
        admitted = [asyncio.ensure_future(door.ask(Client())) for _ in range(2)]
        await door.inside.entered.wait()
        refused = [await door.ask(Client(headers=[(b"content-length", b"9" * 9)])) for _ in range(30)]
        assert {client.status for client in refused} == {503}
        assert {client.code for client in refused} == {"overloaded"}
        assert {client.reads for client in refused} == {0}
        waits = {client.header(b"retry-after") for client in refused}
        assert waits == {b"1", b"2", b"3"}, "the refused come back at different times"
        assert 'recsys_shed_total{reason="full"} 30.0' in door.shown()
        for path in ("/livez", "/readyz"):
            assert (await door.ask(Client(path, method="GET"))).status == 200
        for path in ("/metrics", "/admin/rollback"):
            helper = asyncio.ensure_future(door.ask(Client(path)))
            door.inside.entered.clear()
            await door.inside.entered.wait()
            admitted.append(helper)
        door.inside.held.set()
        assert {(await task).status for task in admitted} == {200}
        assert (await door.ask(Client())).status == 200

    asyncio.run(main())


def test_a_draining_server_finishes_what_it_has() -> None:
    async def main() -> None:
        door = Door()
        door.inside.held.clear()
        inside = asyncio.ensure_future(door.ask(Client()))
        await door.inside.entered.wait()
        drained = asyncio.ensure_future(door.gate.drain())
        await asyncio.sleep(0)
        for path in ("/v1/recommend", "/admin/reload", "/metrics"):
            refused = await door.ask(Client(path))
            assert (refused.status, refused.code, refused.reads) == (503, "draining", 0)
        assert (await door.ask(Client("/livez"))).status == 200
        assert not drained.done()
        door.inside.held.set()
        await drained
        assert (await inside).status == 200

    asyncio.run(main())


def test_an_empty_server_drains_at_once() -> None:
    gate = Gate(1)
    asyncio.run(gate.drain())
    assert gate.draining
    assert gate.refuses() == "draining"


def test_a_declared_body_that_is_too_large_is_not_read() -> None:
    async def main() -> None:
        door = Door(max_body_bytes=2000)
        for length in (b"2001", b"9" * 40, b"-1", b"x"):
            client = await door.ask(Client(headers=[(b"content-length", length)]))
            assert (client.status, client.code, client.reads) == (413, "too_large", 0)
            assert client.header(b"connection") == b"close"
        assert (await door.ask(Client(headers=[(b"content-length", b"2000")]))).status == 200

    asyncio.run(main())


def test_a_streamed_body_is_counted() -> None:
    async def main() -> None:
        door = Door(max_body_bytes=2000)
        client = await door.ask(Client(body=[b"x" * 500] * 10))
        assert (client.status, client.reads) == (413, 5)
        assert not door.inside.bodies
        assert (await door.ask(Client(body=[b"x" * 500] * 4))).status == 200

    asyncio.run(main())


def test_a_body_that_never_ends_is_given_up() -> None:
    async def main() -> None:
        door = Door(body_seconds=0.01)
        client = Client(body=[b"{"])
        client.endless = True
        await door.ask(client)
        assert (client.status, client.code) == (408, "expired")
        assert not door.inside.bodies
        assert door.gate.in_flight == 0

    asyncio.run(main())


def test_a_client_that_disconnects_while_sending_reaches_no_route() -> None:
    async def main() -> None:
        door = Door()
        client = Client(body=[b"{"])
        client.endless = True
        client.stalls.set()
        await door.ask(client)
        assert not client.sent
        assert not door.inside.bodies
        assert 'code="499"' in door.shown()

    asyncio.run(main())


@pytest.mark.parametrize(("path", "dropped"), [("/v1/recommend", True), ("/admin/reload", False)])
def test_work_is_dropped_when_its_client_leaves_but_a_change_goes_on(path: str, dropped: bool) -> None:
    async def main() -> None:
        door = Door()
        door.inside.held.clear()
        client = Client(path)
        asked = asyncio.ensure_future(door.ask(client))
        await door.inside.entered.wait()
        client.stalls.set()
        if not dropped:
            door.inside.held.set()
        await asked
        assert door.inside.cancelled == dropped
        assert bool(client.sent) != dropped
        assert door.gate.in_flight == 0

    asyncio.run(main())


def test_a_cancelled_server_leaves_nothing_running() -> None:
    async def main() -> None:
        door = Door()
        door.inside.held.clear()
        asked = asyncio.ensure_future(door.ask(Client()))
        await door.inside.entered.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert door.inside.cancelled == 1
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_server_that_gives_up_says_so() -> None:
    async def main() -> None:
        door = Door()
        door.inside.held.clear()
        client = Client()
        asked = asyncio.ensure_future(door.ask(client))
        await door.inside.entered.wait()
        door.gate.draining = True
        asked.cancel()
        await asked
        assert (client.status, client.code, door.inside.cancelled) == (503, "failed", 1)

    asyncio.run(main())


def test_keys_are_checked_before_the_body(tmp_path: Path) -> None:
    reader, admin = (create_key(tmp_path / "k.json", scope, scope) for scope in ("read", "admin"))

    async def main() -> None:
        door = Door(Keys.load(tmp_path / "k.json"))
        for headers in ([], [bearer("rsk_wrong")], [bearer("")], [(b"x-api-key", b"\xff")]):
            client = await door.ask(Client(headers=headers))
            assert (client.status, client.code, client.reads) == (401, "unauthorized", 0)
            assert client.header(b"www-authenticate") == b"Bearer"
        for path in ("/admin/reload", "/v1/users/u"):
            client = await door.ask(Client(path, headers=[bearer(reader)]))
            assert (client.status, client.code, client.reads) == (403, "forbidden", 0)
            assert (await door.ask(Client(path, headers=[bearer(admin)]))).status == 200
        for headers in (
            [bearer(reader)],
            [(b"x-api-key", reader.encode())],
            [(b"authorization", b"bEARER " + reader.encode())],
        ):
            assert (await door.ask(Client(headers=headers))).status == 200
        for path in ("/", "/page/app.js", "/livez", "/readyz"):
            assert (await door.ask(Client(path))).status == 200
        assert (await door.ask(Client("/metrics"))).status == 401
        assert (await door.ask(Client(headers=[(b"host", b"recsys.example"), bearer(reader)]))).status == 200

    asyncio.run(main())


def test_each_key_has_its_rate(tmp_path: Path) -> None:
    ann, bob = (create_key(tmp_path / "k.json", name, "read") for name in ("ann", "bob"))

    async def main() -> None:
        door = Door(Keys.load(tmp_path / "k.json"), rate_per_minute=1, rate_burst=2)
        asked = [await door.ask(Client(headers=[bearer(ann)])) for _ in range(3)]
        assert [client.status for client in asked] == [200, 200, 429]
        assert (asked[2].code, asked[2].reads) == ("rate_limited", 0)
        wait = asked[2].header(b"retry-after")
        assert wait is not None
        assert 50 < int(wait) <= 61
        assert (await door.ask(Client(headers=[bearer(bob)]))).status == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([(b"host", b"127.0.0.1:8000")], 200),
        ([(b"host", b"[::1]:8000")], 200),
        ([(b"host", b"LOCALHOST")], 200),
        ([(b"host", b"evil.example")], 403),
        ([(b"host", b"localhost.evil.example:8000")], 403),
        ([(b"origin", b"http://localhost:8000")], 200),
        ([(b"origin", b"http://evil.example")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"origin", b"http://localhost:9000")], 403),
    ],
)
def test_without_keys_other_sites_are_refused_in_a_browser(headers: list[Any], status: int) -> None:
    async def main() -> None:
        assert (await Door().ask(Client("/admin/rollback", headers=headers))).status == status

    asyncio.run(main())


def test_websockets_are_closed() -> None:
    async def main() -> None:
        client = Client()
        client.scope["type"] = "websocket"
        await Door().ask(client)
        assert client.sent == [{"type": "websocket.close", "code": 1000}]

    asyncio.run(main())


def test_a_heading_reads_what_it_needs() -> None:
    headers = [(b"content-length", b"12"), (b"x-api-key", b"b"), (b"authorization", b"Bearer  a "), (b"host", b"H")]
    assert AuthHeaders.of(headers) == AuthHeaders(12, b"a", b"h", b"")
    assert AuthHeaders.of([(b"authorization", b"Basic a")]).token is None
