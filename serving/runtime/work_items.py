"""What waits for an inference thread, what becomes of it, and how answers get back to an event loop.

Reads and writes no files.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, cast

from serving.engine.interface import Request, Where

T = TypeVar("T")
Reason = Literal["full", "expired", "draining", "failed"]
RETRY_AFTER: dict[Reason, float] = {"full": 1.0, "expired": 1.0, "draining": 5.0, "failed": 1.0}


class Unavailable(Exception):  # noqa: N818 - a state of the service, not an error of anyone's
    """No answer now, through no fault of the request: the queue is full, the deadline passed, and the like.

    `retry_after` is the number of seconds after which another try makes sense.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.retry_after = RETRY_AFTER[reason]


@dataclass(eq=False, slots=True)
class WorkItem:
    """One piece of work that waits: a request, answered together with others, or a function that is called alone.

    `deadline` and `queued` are seconds of `time.monotonic`.
    """

    work: Request | Callable[[], object]
    deadline: float
    queued: float
    future: asyncio.Future[Any]

    @property
    def kind(self) -> Where | None:
        """What jobs that are taken together have in common: their filter, or None where they are functions."""
        return self.work.where if isinstance(self.work, Request) else None


class Outcome(NamedTuple):
    """What became of a job: `value`, or the error where there is one."""

    job: WorkItem
    value: object
    error: Exception | None = None


def drop_expired(jobs: Sequence[WorkItem] | deque[WorkItem]) -> list[WorkItem]:
    """The jobs somebody still waits for; the ones that have expired are told so."""
    now = time.monotonic()
    waited = [job for job in jobs if not job.future.done()]
    expired = [job for job in waited if job.deadline <= now]
    deliver([Outcome(job, None, Unavailable("expired")) for job in expired])
    return [job for job in waited if job.deadline > now] if expired else waited


def deliver(outcomes: Sequence[Outcome]) -> None:
    """Resolve the jobs' futures from the inference thread, with one wake-up of each event loop."""
    for loop in {outcome.job.future.get_loop() for outcome in outcomes}:
        own = [outcome for outcome in outcomes if outcome.job.future.get_loop() is loop]
        with suppress(RuntimeError):  # the loop has been closed, and with it all who waited
            loop.call_soon_threadsafe(_resolve, own)


def log_failure(log: logging.Logger, what: str, error: Exception) -> None:
    """One log entry of an error's type and where it arose; its text could hold someone's history."""
    log.error("%s: %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)).rstrip())


def _resolve(outcomes: Sequence[Outcome]) -> None:
    for job, value, error in outcomes:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(value)
        else:
            job.future.set_exception(error)


async def beside(work: Callable[[], T]) -> T:
    """Do long work on a thread that a server which has to end does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the work is awaited
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done, result, failure)

    threading.Thread(target=run, daemon=True, name="recsys-reload").start()
    return await future
