"""What a long computation tells its caller: metrics as they come, and how far it is.

`Tracker` is the protocol that every trainer takes; `NullTracker` is silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

T = TypeVar("T")


class Tracker(Protocol):
    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Record metrics, named `part/metric`, at a step."""

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        """Yield from `iterable`, showing progress where there is somebody to see it."""


class NullTracker:
    """Records nothing and shows nothing."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        return None

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        return iterable
