"""Rate limit per API key: one token bucket per name."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimiter:
    """`per_minute` requests per name on average, `burst` at once. Not thread-safe."""

    def __init__(self, per_minute: int, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._per_second, self._burst, self._clock = per_minute / 60, float(burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, and when that was

    def take(self, name: str) -> float:
        """Take one token; returns 0 where the request is allowed, else the seconds until the next token."""
        now = self._clock()
        left, before = self._buckets.get(name, (self._burst, now))
        left = min(self._burst, left + (now - before) * self._per_second)
        allowed = left >= 1
        self._buckets[name] = (left - allowed, now)
        return 0.0 if allowed else (1 - left) / self._per_second
