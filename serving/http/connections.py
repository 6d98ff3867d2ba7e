"""Bounds on what comes before a request: how long its headers may take and how large they may be.

uvicorn waits for headers without end. What is bounded is what arrives while no request is being handled.
"""

from __future__ import annotations

import asyncio
from typing import Any

MAX_HEADER_BYTES = 1 << 16


def bounded_headers(protocol: type[Any], seconds: float) -> type[Any]:
    """One of uvicorn's HTTP protocols that hangs up on a client whose headers are too slow or too large."""

    class BoundedHeaders(protocol):  # type: ignore[misc]
        """Counts bytes and time until a request begins."""

        _timer: asyncio.TimerHandle | None = None
        _size = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._go_on()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._go_on()
                return
            self._size += len(data)
            if self._size > MAX_HEADER_BYTES:
                self.transport.close()
            self._wait()

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

        def _go_on(self) -> None:
            self._size = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedHeaders
