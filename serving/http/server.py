"""Runs the endpoint in one process: listens, answers until a signal, and stops without losing a request.

Opens the history store and the key file that the configuration names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from recsys.errors import ConfigError
from serving.config import ServeConfig
from serving.http.admission import Admission
from serving.http.app import create_app
from serving.http.history_store import open_store
from serving.http.keys import Keys
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime

log = logging.getLogger(__name__)

BACKLOG = 2048
MAX_HEADER_BYTES = 1 << 16
LAST_SECONDS = 2  # to send answers to slow clients, after the work is done


def serve(
    runtime: Runtime, config: ServeConfig, *, metrics: Metrics, announce: Callable[[str], None] | None = None
) -> None:
    """Answer HTTP until SIGTERM or SIGINT, then finish requests in flight and close the runtime.

    `announce` is called with the URL once requests are answered; the metrics are shared with the runtime.

    Raises:
        ConfigError: the address is taken, or open to other machines without keys; or the store cannot be opened.
        ArtifactError: the file of keys cannot be read.
        DependencyError: the store needs a package that is not installed.
    """
    try:
        keys = None if config.keys is None else Keys.load(config.keys)
        check_exposure(config, keys)
        with listening(config) as listener:
            store = open_store(config.store, config.history_limit)
            app = create_app(runtime, config, metrics=metrics, store=store, keys=keys)
            Server(app, runtime, config, announce=announce).run([listener])
    finally:
        runtime.close()


def check_exposure(config: ServeConfig, keys: Keys | None) -> None:
    """Raise ConfigError where other machines could send requests without a key."""
    if not keys and not _is_loopback(config.host):
        raise ConfigError(
            f"host: {config.host} is open to other machines, and there are no keys; "
            "create one with `recsys keys create` and pass --keys FILE, or listen on 127.0.0.1"
        )


def listening(config: ServeConfig) -> socket.socket:
    """A socket that listens on the configured address; ConfigError where it is taken, or not this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"host, port: cannot listen on {config.host}:{config.port} ({error.strerror}); choose another, or port 0"
        ) from error


class Server(uvicorn.Server):
    """uvicorn with a graceful stop: the first signal lets requests in flight finish, the second does not wait."""

    def __init__(
        self, app: Admission, runtime: Runtime, config: ServeConfig, *, announce: Callable[[str], None] | None = None
    ) -> None:
        """`run` it with a listening socket."""
        settings = uvicorn.Config(
            app,
            interface="asgi3",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=LAST_SECONDS,
            http="h11",  # bounds the size of headers; httptools does not
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        super().__init__(settings)
        self._incomplete: dict[Any, float] = {}  # connections that have not sent all headers, and since when
        self._app, self._runtime, self._serving, self._announce = app, runtime, config, announce
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn, then announce the address."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self._announce is not None and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def on_tick(self, counter: int) -> bool:
        """As in uvicorn, ten times a second; also closes connections whose headers take too long."""
        now = time.monotonic()
        waiting = [connection for connection in self.server_state.connections if _awaits_headers(connection)]
        self._incomplete = {connection: self._incomplete.get(connection, now) for connection in waiting}
        for connection, since in self._incomplete.items():
            if now - since > self._serving.header_seconds:
                connection.transport.close()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn on SIGTERM and SIGINT."""
        self.stop()

    def stop(self) -> None:
        """Finish requests in flight, then end `run`; a second call ends it at once. Any thread may call it."""
        if self._loop is None or self._app.gate.draining:
            self.should_exit = self.force_exit = True
        else:
            self._app.gate.draining = True
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._leaving = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        log.info("stopping: %d requests in flight", self._app.gate.in_flight)
        try:
            async with asyncio.timeout(self._serving.drain_seconds):
                await self._app.gate.drain()
                await self._runtime.drain()
        except TimeoutError:
            log.warning("stopping with %d requests unanswered", self._app.gate.in_flight)
        self.should_exit = True


def _awaits_headers(connection: Any) -> bool:
    """Whether a connection has neither a request in progress nor a keep-alive timer."""
    busy = connection.cycle is not None and not connection.cycle.response_complete
    return not busy and connection.timeout_keep_alive_task is None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
