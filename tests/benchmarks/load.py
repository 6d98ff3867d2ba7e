"""A load generator in one process: HTTP/1.1 over kept-alive connections, closed loop or at a rate, counted honestly.

Latency of a request at a rate counts from when it was due, so that a stalled server cannot hide its queue (coordinated
omission). Run by `tests.benchmarks.serving` on a core of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Send = Callable[[bytes], Awaitable[tuple[int, bytes]]]


class Answered(NamedTuple):
    """An answer with status 200: seconds from when it was due, and the tier it was made with."""

    seconds: float
    tier: str


@dataclass
class Counted:
    """What came of a load: the answers, all status codes (0 = no answer), and seconds in all."""

    answers: list[Answered] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    elapsed: float = 0.0

    def within(self, deadline: float, *tiers: str) -> float:
        """Answers a second that came in time; of some tiers only, where they are named."""
        count = sum(a.seconds <= deadline and (not tiers or a.tier in tiers) for a in self.answers)
        return count / self.elapsed if self.elapsed else 0.0

    def figures(self, deadline: float) -> dict[str, float | str]:
        """Figures for one JSON line."""
        seconds = [answer.seconds for answer in self.answers]
        quantiles = (np.percentile(seconds, [50, 95, 99]) * 1e3).tolist() if seconds else [float("nan")] * 3
        return {
            "goodput": self.within(deadline),
            "full": self.within(deadline, "full"),
            **dict(zip(("p50_ms", "p95_ms", "p99_ms"), quantiles, strict=True)),
            "codes": _counts(self.codes),
            "tiers": _counts(Counter(answer.tier for answer in self.answers)),
        }


def _counts(counter: Mapping[Any, int]) -> str:
    return " ".join(f"{name}:{count}" for name, count in sorted(counter.items()) if count)


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0 or self._answer is None:
            return
        head = bytes(self._buffer[:head_end]).lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._buffer) < head_end + 4 + length:
            return
        body = bytes(self._buffer[head_end + 4 : head_end + 4 + length])
        self._buffer.clear()
        answer, self._answer = self._answer, None
        if b"connection: close" in head and self.transport is not None:
            self.transport.close()
        if not answer.done():
            answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, b""))
        self._answer = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


class Pool:
    """Connections to one server, as many as are needed at once; a context that closes them."""

    def __init__(self, port: int) -> None:
        self._port, self._idle = port, deque[Connection]()
        self._all: list[Connection] = []

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *error: object) -> None:
        for connection in self._all:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body; status 0 where there was no answer."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                break
        else:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
            except OSError:
                return 0, b""
            self._all.append(connection)
        found = await connection.send(request)
        if connection.transport is not None and not connection.transport.is_closing():
            self._idle.append(connection)
        return found


def post(path: str, body: dict[str, Any]) -> bytes:
    """A whole request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def closed(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> Counted:
    """So many clients, each asking again as soon as it is answered, also when it was refused."""
    counted, turns = Counted(), iter_forever(requests)
    started = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - started < seconds:
            await _once(pool, next(turns), time.perf_counter(), counted)

    async with Pool(port) as pool:
        await asyncio.gather(*(client() for _ in range(clients)))
        counted.elapsed = time.perf_counter() - started
    return counted


async def at_rate(port: int, requests: Sequence[bytes], *, rate: float, seconds: float, seed: int = 0) -> Counted:
    """Requests that arrive by a Poisson process, whatever becomes of those before them."""
    counted, random = Counted(), np.random.default_rng(seed)
    turns, running = iter_forever(requests), set[asyncio.Task[None]]()
    started = due = time.perf_counter()
    async with Pool(port) as pool:
        while due - started < seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(_once(pool, next(turns), due, counted))
            running.add(task)
            task.add_done_callback(running.discard)
            due += float(random.exponential(1 / rate))
        counted.elapsed = time.perf_counter() - started
        _, late = await asyncio.wait(running, timeout=10) if running else (set(), set())
        for task in late:
            counted.codes[0] += 1
            task.cancel()
    return counted


async def _once(pool: Pool, request: bytes, due: float, counted: Counted) -> None:
    status, body = await pool.send(request)
    counted.codes[status] += 1
    if status == 200:
        answer = json.loads(body)
        counted.answers.append(Answered(time.perf_counter() - due, str(answer.get("tier", "full"))))


def iter_forever(values: Sequence[bytes]) -> Iterator[bytes]:
    while True:
        yield from values
