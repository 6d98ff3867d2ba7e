"""What the processes of a stage send to the driver, and how the driver repeats it: metrics, progress, log lines, notes.

An event is a tuple of its kind and values, sent through a pipe.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from itertools import repeat
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from recsys.artifacts import StageRun
from recsys.tracking import Tracker

T = TypeVar("T")
LOGGERS = ("recsys", "pipelines")


class Sender:
    """A tracker that sends everything to the driver."""

    def __init__(self, events: Connection) -> None:
        self._events = events
        self._started = 0

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._events.send(("log", {name: float(value) for name, value in values.items()}, step))

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        self._started += 1
        number = self._started
        size = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self._events.send(("start", number, description, size))
        for element in iterable:
            yield element
            self._events.send(("advance", number))
        self._events.send(("end", number))

    def line(self, record: logging.LogRecord) -> None:
        self._events.send(("line", record.name, record.levelno, record.getMessage()))

    def notes(self, notes: Mapping[str, Any]) -> None:
        self._events.send(("notes", dict(notes)))

    def error(self, error: BaseException) -> None:
        self._events.send(("error", error))


class Replay:
    """Repeats the events of a process on the driver's own tracker, loggers and stage."""

    def __init__(self, run: StageRun, tracker: Tracker) -> None:
        self._run, self._tracker = run, tracker
        self._tracks: dict[int, Iterator[None]] = {}

    def __call__(self, event: tuple[Any, ...]) -> None:
        """Repeat an event; raises the error that it may be."""
        kind, *values = event
        getattr(self, f"_{kind}")(*values)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log(values, step=step)

    def _start(self, number: int, description: str, total: int | None) -> None:
        elements = repeat(None) if total is None else repeat(None, total)
        self._tracks[number] = iter(self._tracker.track(elements, description, total))
        next(self._tracks[number], None)

    def _advance(self, number: int) -> None:
        next(self._tracks[number], None)

    def _end(self, number: int) -> None:
        track = self._tracks.pop(number)
        if hasattr(track, "close"):
            track.close()

    def _line(self, name: str, level: int, message: str) -> None:
        logging.getLogger(name).log(level, "%s", message)

    def _notes(self, notes: Mapping[str, Any]) -> None:
        self._run.notes.update(notes)

    def _error(self, error: BaseException) -> None:
        raise error


@contextmanager
def forwarded_logs(sender: Sender | None) -> Iterator[None]:
    """Send the log lines of our packages within the block; without a sender they are dropped."""
    handler = _Handler(sender)
    for logger in map(logging.getLogger, LOGGERS):
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in map(logging.getLogger, LOGGERS):
            logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, sender: Sender | None) -> None:
        super().__init__()
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        if self._sender is not None:
            self._sender.line(record)
