"""Progress of long loops on stderr: a bar in a terminal, otherwise a log line every 30 seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recsys.tracking import Tracker

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 30.0

logger = logging.getLogger(__name__)


@contextmanager
def progress_tracker(tracker: Tracker, console: Console) -> Iterator[ProgressTracker]:
    """Show progress on a console within the block."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    description = TextColumn("      {task.description}")
    with Progress(description, *columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield ProgressTracker(tracker, bars)


class ProgressTracker:
    """Displays progress, and passes metrics on to another tracker."""

    def __init__(self, tracker: Tracker, bars: Progress) -> None:
        self._tracker, self._bars = tracker, bars

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._tracker.log(values, step=step)

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        show = self._lines if self._bars.disable else self._bar
        return show(iterable, description, total)

    def _bar(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        task = self._bars.add_task(description, total=total)
        try:
            for item in iterable:
                yield item
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)

    def _lines(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        last = time.monotonic()
        for number, item in enumerate(iterable, start=1):
            yield item
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                logger.info("      %s: %d%s", description, number, f" of {total}" if total else "")
