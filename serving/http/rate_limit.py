"""How often each key may ask: a token bucket of its own for every name."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimiter:
    """`per_minute` requests a name in the long run, `burst` at once. One thread uses it."""

    def __init__(self, per_minute: int, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """With a clock in seconds."""
        self._per_second, self._burst, self._clock = per_minute / 60, float(burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when that was

    def take(self, name: str) -> float:
        """Take one request; 0 where it is allowed, else the seconds until one will be. Refused ones cost nothing."""
        now = self._clock()
        left, before = self._buckets.get(name, (self._burst, now))
        left = min(self._burst, left + (now - before) * self._per_second)
        allowed = left >= 1
        self._buckets[name] = (left - allowed, now)
        return 0.0 if allowed else (1 - left) / self._per_second
