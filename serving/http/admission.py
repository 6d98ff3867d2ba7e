"""Admission control, decided before a byte of the body is read.

In this order: a draining or full server answers 503 at once, from precomputed bytes; then the declared body size, the
host, the key and its rate are checked; only then is the body read, within its size and time limits. Liveness is
always admitted; metrics and administration also while the server is full, so that it can be operated.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Literal

from serving.config import ServeConfig
from serving.http.auth import Authenticator, AuthHeaders, needed_scope
from serving.http.errors import Events, error_events
from serving.http.keys import Keys
from serving.runtime.metrics import Metrics
from serving.runtime.work_items import log_failure

log = logging.getLogger(__name__)

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[AsgiScope, Receive, Send], Awaitable[None]]
Shed = Literal["draining", "full"]

ALWAYS = frozenset({"/livez", "/readyz"})
EXEMPT = ("/metrics", "/admin/reload", "/admin/rollback", "/admin/items")  # from the cap only
WATCHED = frozenset({"/v1/recommend", "/v1/retrieve", "/v1/similar"})  # cancelled when the client disconnects
CLIENT_CLOSED = 499  # the client disconnected before its answer


class Gate:
    """Counts requests in flight, and decides whether more are admitted."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight, self.in_flight, self.draining = max_in_flight, 0, False
        self._empty = asyncio.Event()
        self._empty.set()

    def refuses(self) -> Shed | None:
        """Why no request is admitted now; None where it is."""
        if self.draining:
            return "draining"
        return "full" if self.in_flight >= self.max_in_flight else None

    def enter(self) -> None:
        """Count a request in."""
        self.in_flight += 1
        self._empty.clear()

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if not self.in_flight:
            self._empty.set()

    async def drain(self) -> None:
        """Refuse new requests, and wait for those in flight."""
        self.draining = True
        await self._empty.wait()


class Admission:
    """The outermost ASGI application; the server drains its `gate`."""

    def __init__(self, app: App, config: ServeConfig, gate: Gate, metrics: Metrics, keys: Keys | None) -> None:
        """Around an application; without keys every request from this machine is allowed everything."""
        self.app, self.gate = app, gate
        self._config, self._metrics = config, metrics
        self._auth = Authenticator(config, keys)
        self._shed: dict[Shed, Iterator[Events]] = {
            "draining": _jittered("draining", "the server is shutting down; try again"),
            "full": _jittered("overloaded", "the server is busy; try again later"),
        }
        limit = f"at most {config.max_body_bytes} bytes are allowed"
        self._too_large = error_events(413, "too_large", f"the body is too large; {limit}", close=True)
        stopped = "the server stopped before the answer; the request may or may not have been processed"
        self._stopped = error_events(503, "failed", stopped, close=True)
        self._bad_path = error_events(422, "invalid", "path: line breaks are not allowed")
        slow = f"the body took more than {config.body_seconds:g} seconds"
        self._too_slow = error_events(408, "expired", slow, close=True)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        reason = self.gate.refuses()
        if reason == "draining" or (reason and scope["path"] not in EXEMPT):
            self._metrics.shed(reason)
            await _answer(next(self._shed[reason]), send)
            return
        self.gate.enter()
        self._metrics.in_flight.inc()
        try:
            await self._admitted(scope, receive, send)
        finally:
            self.gate.leave()
            self._metrics.in_flight.dec()

    async def _admitted(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        begun, code = time.monotonic(), CLIENT_CLOSED

        async def record_status(event: MutableMapping[str, Any]) -> None:
            nonlocal code
            if event["type"] == "http.response.start":
                code = event["status"]
            await send(event)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                refusal = await self._routed(scope, receive, record_status)
            if refusal is not None:
                await _answer(refusal, record_status)
        except asyncio.CancelledError:
            if not self.gate.draining:
                raise
            if code == CLIENT_CLOSED:  # the server stops: answer what is still unanswered
                await _answer(self._stopped, record_status)
        except Exception as error:  # noqa: BLE001 - last boundary: the client has its 500, the log gets no user data
            log_failure(log, "a request failed", error)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - begun
            self._metrics.request(route, code, seconds)
            log.info("%s %s %d %.1f ms", scope["method"], route, code, 1000 * seconds)

    def _refusal(self, scope: AsgiScope) -> Events | None:
        headers = AuthHeaders.of(scope["headers"])
        if "\n" in scope["path"]:  # routes would match a part of the path, which may name another user
            return self._bad_path
        if headers.length > self._config.max_body_bytes:
            return self._too_large
        return self._auth.refusal(scope["path"], headers)

    async def _routed(self, scope: AsgiScope, receive: Receive, send: Send) -> Events | None:
        """Read the body and pass the request on; returns an error where the body is refused."""
        if needed_scope(scope["path"]) is None:  # the body is not read: no route of the page needs one
            await self.app(scope, receive, send)
            return None
        try:
            async with asyncio.timeout(self._config.body_seconds):
                body = await _body(receive, self._config.max_body_bytes)
        except TimeoutError:
            return self._too_slow
        except OverflowError:
            return self._too_large
        if body is None:
            return None
        replayed = _replayed(body, receive)
        if scope["path"] in WATCHED:
            await _while_connected(self.app(scope, replayed, send), receive)
        else:
            await self.app(scope, replayed, send)
        return None


async def _body(receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None where the client disconnected, OverflowError where it is longer than `max_bytes`."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        part = event.get("body", b"")
        size, more = size + len(part), event.get("more_body", False)
        if size > max_bytes:
            raise OverflowError
        parts.append(part)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The receive channel of a request whose body has been read."""
    first = iter(({"type": "http.request", "body": body, "more_body": False},))

    async def replay() -> MutableMapping[str, Any]:
        return next(first, None) or await receive()

    return replay


async def _while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Await the work, and cancel it when the client disconnects."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        finished = working.done()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    if finished:
        working.result()


async def _answer(events: Events, send: Send) -> None:
    for event in events:
        await send(event)


def _jittered(code: Literal["draining", "overloaded"], message: str) -> Iterator[Events]:
    """Endless refusals with varying Retry-After, so that clients do not all retry at once."""
    waits = [1.0, 2.0, 3.0]
    random.shuffle(waits)
    return itertools.cycle([error_events(503, code, message, retry_after=wait) for wait in waits])
