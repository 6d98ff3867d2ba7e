"""Pending requests and calls of the inference thread, their outcomes, and their delivery to an event loop.

Reads and writes no files.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, cast

from serving.engine.interface import Request, Where

T = TypeVar("T")
Reason = Literal["full", "expired", "draining", "failed"]
RETRY_AFTER: dict[Reason, float] = {"full": 1.0, "expired": 1.0, "draining": 5.0, "failed": 1.0}


class Unavailable(Exception):  # noqa: N818 - a state of the service, not an error
    """No answer now for a valid request: the queue is full, the deadline passed, the server drains or failed.

    `retry_after` is the number of seconds after which to try again.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.retry_after = RETRY_AFTER[reason]


@dataclass(eq=False, slots=True)
class WorkItem:
    """A request, which is answered in a batch, or a function, which is called alone; made on the event loop.

    `deadline` and `queued` are seconds of `time.monotonic`.
    """

    work: Request | Callable[[], object]
    deadline: float = math.inf
    queued: float = field(default_factory=time.monotonic)
    future: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def kind(self) -> Where | None:
        """What the work items of a batch share: their filter, or None where they are functions."""
        return self.work.where if isinstance(self.work, Request) else None


class Outcome(NamedTuple):
    """The result of a work item: `value`, or the error where there is one."""

    work_item: WorkItem
    value: object
    error: Exception | None = None


def drop_expired(work_items: Sequence[WorkItem] | deque[WorkItem]) -> list[WorkItem]:
    """Drop expired and cancelled work items; expired ones get `Unavailable`."""
    now = time.monotonic()
    awaited = [work_item for work_item in work_items if not work_item.future.done()]
    expired = [work_item for work_item in awaited if work_item.deadline <= now]
    deliver([Outcome(work_item, None, Unavailable("expired")) for work_item in expired])
    return [work_item for work_item in awaited if work_item.deadline > now] if expired else awaited


def deliver(outcomes: Sequence[Outcome]) -> None:
    """Resolve the futures from the inference thread, with one wake-up of each event loop."""
    for loop in {outcome.work_item.future.get_loop() for outcome in outcomes}:
        own = [outcome for outcome in outcomes if outcome.work_item.future.get_loop() is loop]
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(_resolve, own)


def log_failure(log: logging.Logger, what: str, error: Exception) -> None:
    """Log an error's type and traceback only; its text could hold a user's history."""
    log.error("%s: %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)).rstrip())


def _resolve(outcomes: Sequence[Outcome]) -> None:
    for work_item, value, error in outcomes:
        if work_item.future.done():
            continue
        if error is None:
            work_item.future.set_result(value)
        else:
            work_item.future.set_exception(error)


async def on_reload_thread(work: Callable[[], T]) -> T:
    """Do long work on a daemon thread, which the server's exit does not wait for."""
    work_item = WorkItem(work)

    def run() -> None:
        try:
            outcome = Outcome(work_item, work())
        except Exception as error:  # noqa: BLE001 - raised where the work is awaited
            outcome = Outcome(work_item, None, error)
        deliver([outcome])

    threading.Thread(target=run, daemon=True, name="recsys-reload").start()
    return cast(T, await work_item.future)
