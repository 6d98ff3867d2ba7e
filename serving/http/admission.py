"""The gate before everything: who may come in, decided before a byte of the body is read.

In this order: a draining server and one that is full answer 503 at once, from bytes made beforehand; then the declared
size of the body, the host, the key and its rate; only then is the body read, within its size and time. Liveness passes
by; metrics and administration are admitted also where the server is full, so that somebody can help it.
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
EXEMPT = ("/metrics", "/admin/reload", "/admin/rollback", "/admin/items")  # from the cap, not from the rest
WATCHED = frozenset({"/v1/recommend", "/v1/retrieve", "/v1/similar"})  # work that nobody waits for is dropped
GONE = 499  # the client left before its answer


class Gate:
    """How many requests are in flight, and whether more may come."""

    def __init__(self, most: int) -> None:
        """For at most so many at once."""
        self.most, self.in_flight, self.draining = most, 0, False
        self._empty = asyncio.Event()
        self._empty.set()

    def refuses(self) -> Shed | None:
        """Why nobody is let in now, if so."""
        if self.draining:
            return "draining"
        return "full" if self.in_flight >= self.most else None

    def enter(self) -> None:
        """One more is in flight."""
        self.in_flight += 1
        self._empty.clear()

    def leave(self) -> None:
        """One less is in flight."""
        self.in_flight -= 1
        if not self.in_flight:
            self._empty.set()

    async def drain(self) -> None:
        """Let nobody in any more, and wait until all have left."""
        self.draining = True
        await self._empty.wait()


class Admission:
    """The outermost ASGI application; `gate` is shared with whoever drains the server."""

    def __init__(self, app: App, config: ServeConfig, gate: Gate, metrics: Metrics, keys: Keys | None) -> None:
        """Around an application; without keys, everybody on this machine may do everything."""
        self.app, self.gate = app, gate
        self._config, self._metrics = config, metrics
        self._credentials = Authenticator(config, keys)
        self._shed: dict[Shed, Iterator[Events]] = {
            "draining": _jittered("draining", "the server is shutting down; try again"),
            "full": _jittered("overloaded", "the server is busy; try again later"),
        }
        most = f"at most {config.max_body_bytes} bytes are allowed"
        self._too_large = error_events(413, "too_large", f"the body is too large; {most}", close=True)
        unsure = "the server stopped before the answer; the request may have been done or not"
        self._given_up = error_events(503, "failed", unsure, close=True)
        slow = f"the body took more than {config.body_seconds:g} seconds; send it faster"
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
        begun, code = time.monotonic(), GONE

        async def noting(event: MutableMapping[str, Any]) -> None:
            nonlocal code
            if event["type"] == "http.response.start":
                code = event["status"]
            await send(event)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                refusal = await self._routed(scope, receive, noting)
            if refusal is not None:
                await _answer(refusal, noting)
        except asyncio.CancelledError:
            if not self.gate.draining:
                raise
            if code == GONE:  # the server gives the request up, and says so
                await _answer(self._given_up, noting)
        except Exception as error:  # noqa: BLE001 - the last boundary: the client has its 500, the log gets no user data
            log_failure(log, "a request failed", error)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - begun
            self._metrics.request(route, code, seconds)
            log.info("%s %s %d %.1f ms", scope["method"], route, code, 1000 * seconds)

    def _refusal(self, scope: AsgiScope) -> Events | None:
        heading = AuthHeaders.of(scope["headers"])
        if heading.length > self._config.max_body_bytes:
            return self._too_large
        return self._credentials.refusal(scope["path"], heading)

    async def _routed(self, scope: AsgiScope, receive: Receive, send: Send) -> Events | None:
        """Read the body and pass the request on; or say why not."""
        if needed_scope(scope["path"]) is None:  # nobody may hold a place with a body that no route reads
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
        again = _replayed(body, receive)
        if scope["path"] in WATCHED:
            await _while_connected(self.app(scope, again, send), receive)
        else:
            await self.app(scope, again, send)
        return None


async def _body(receive: Receive, most: int) -> bytes | None:
    """All of a request's body, None where the client left.

    Raises:
        OverflowError: it is longer than `most`.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        part = event.get("body", b"")
        size, more = size + len(part), event.get("more_body", False)
        if size > most:
            raise OverflowError
        parts.append(part)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The channel of a request whose body has been read already."""
    first = iter(({"type": "http.request", "body": body, "more_body": False},))

    async def again() -> MutableMapping[str, Any]:
        return next(first, None) or await receive()

    return again


async def _while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Do the work, and drop it where the client leaves before its end."""
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
    """One refusal after the other, with different times to wait, so that the refused do not come back together."""
    waits = [1.0, 2.0, 3.0]
    random.shuffle(waits)
    return itertools.cycle([error_events(503, code, message, retry_after=wait) for wait in waits])
