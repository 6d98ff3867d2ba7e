"""A whole endpoint around a fake engine, called in this process or over a real socket."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from serving.config import ServeConfig
from serving.http.admission import Admission
from serving.http.app import create_app
from serving.http.history_store import HistoryStore, open_store
from serving.http.keys import Keys
from serving.http.server import Server, listening
from serving.runtime.item_updates import ItemUpdates
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig
from tests.serving.fakes import PATIENCE, FakeEngine

LOCAL = "http://localhost"
JSON = {"content-type": "application/json"}


class Endpoint(NamedTuple):
    """The parts of an endpoint."""

    engine: FakeEngine
    runtime: Runtime
    config: ServeConfig
    store: HistoryStore
    app: Admission

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """Asks in this process."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url=LOCAL, headers=headers)

    def ask(self, method: str, path: str, key: str | None = None, **rest: Any) -> httpx.Response:
        """One request on a loop of its own."""

        async def asked() -> httpx.Response:
            async with self.client(key) as client:
                return await client.request(method, path, **rest)

        return asyncio.run(asked())


@contextmanager
def endpoint(
    folder: Path,
    *,
    engine: FakeEngine | None = None,
    store: HistoryStore | None = None,
    updates: ItemUpdates | None = None,
    **settings: Any,
) -> Iterator[Endpoint]:
    """An endpoint whose files are in a folder; `settings` are those of ServeConfig. A given store stays open."""
    engine, metrics = engine or FakeEngine(), Metrics()
    config = ServeConfig(**{"port": 0, "store": f"sqlite:///{folder}/histories.sqlite", **settings})
    runtime = Runtime(
        engine, RuntimeConfig(warm_requests=0), metrics=metrics, load=lambda source: FakeEngine("next"), updates=updates
    )
    own = store or open_store(config.store, config.history_limit)
    keys = None if config.keys is None else Keys.load(config.keys)
    app = create_app(runtime, config, metrics=metrics, store=own, keys=keys)
    try:
        yield Endpoint(engine, runtime, config, own, app)
    finally:
        runtime.close()
        if store is None:
            asyncio.run(own.close())


@contextmanager
def serving(parts: Endpoint) -> Iterator[str]:
    """The address of an endpoint that listens in a thread."""
    announced, urls = threading.Event(), list[str]()

    def announce(url: str) -> None:
        urls.append(url)
        announced.set()

    with listening(parts.config) as listener:
        server = Server(parts.app, parts.runtime, parts.config, announce=announce)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert announced.wait(PATIENCE)
        try:
            yield urls[0]
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def connected(url: str) -> socket.socket:
    """A plain socket to an endpoint."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    assert port is not None
    return socket.create_connection((host, port), timeout=PATIENCE)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)
