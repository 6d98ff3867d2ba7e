"""One inference thread and its bounded queue: whatever waits and can be answered together makes one batch.

Coroutines put work in and await futures; the thread hands batches to a function and wakes the event loop once for all
answers of a batch. Work that has expired, or whose client has gone, is dropped before it costs anything. Reads and
writes no files.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from serving.engine.interface import Request, Where
from serving.runtime.work_items import Outcome, Unavailable, WorkItem, deliver, drop_expired, log_failure

logger = logging.getLogger(__name__)


class Batcher:
    """The thread, the queue, and the rules of what is taken from it.

    The oldest job decides what is taken next: all requests that wait with the same filter, up to `max_batch`, or all
    functions. A thread that was idle waits up to `wait_seconds` for company of a request. What `urgent` puts in goes
    before everything else, between two batches.
    """

    def __init__(
        self, run: Callable[[list[WorkItem]], None], *, max_batch: int, max_queue: int, wait_seconds: float
    ) -> None:
        """Start the thread; `run` gets jobs of one kind, and gives each to `deliver`."""
        self._run, self._max_batch, self._max_queue, self._wait = run, max_batch, max_queue, wait_seconds
        self._changed = threading.Condition()
        self._queue: deque[WorkItem] = deque()
        self._urgent: deque[WorkItem] = deque()
        self._draining = self._closing = False
        self._drained: list[WorkItem] = []
        self._thread = threading.Thread(target=self._loop, name="recsys-inference", daemon=True)
        self._thread.start()

    @property
    def accepting(self) -> bool:
        """Whether work may be put in."""
        return not self._draining and self._thread.is_alive()

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    def waiting(self) -> list[list[float]]:
        """The deadlines of the requests that wait, in the batches that they will make."""
        with self._changed:
            jobs = [job for job in self._queue if job.kind is not None and not job.future.done()]
        batches: list[list[float]] = []
        open_batches: dict[Where | None, list[float]] = {}
        for job in jobs:
            batch = open_batches.get(job.kind)
            if batch is None or len(batch) == self._max_batch:
                batch = open_batches[job.kind] = []
                batches.append(batch)
            batch.append(job.deadline)
        return batches

    async def submit(self, work: Request | Callable[[], object], deadline: float) -> Any:
        """Wait for the answer, at most until the deadline (seconds of `time.monotonic`).

        Raises:
            Unavailable: the queue is full, the deadline passes, or the thread is about to stop.
        """
        loop, now = asyncio.get_running_loop(), time.monotonic()
        if deadline <= now:
            raise Unavailable("expired")
        job = WorkItem(work, deadline, now, loop.create_future())
        self._enqueue(job)
        timer = None if math.isinf(deadline) else loop.call_later(deadline - now, _expire, job.future)
        try:
            return await job.future
        finally:
            if timer is not None:
                timer.cancel()

    async def urgent(self, work: Callable[[], object]) -> Any:
        """Call a function on the thread before anything that waits, and return its result.

        Raises:
            Unavailable: the thread is about to stop.
        """
        job = WorkItem(work, math.inf, time.monotonic(), asyncio.get_running_loop().create_future())
        with self._changed:
            self._admit()
            self._urgent.append(job)
            self._changed.notify()
        return await job.future

    async def drain(self) -> None:
        """Refuse new work, and return when all that was admitted has been answered."""
        job = WorkItem(_nothing, math.inf, time.monotonic(), asyncio.get_running_loop().create_future())
        with self._changed:
            self._draining = True
            if not self._thread.is_alive():
                return
            self._drained.append(job)
            self._changed.notify()
        await job.future

    def close(self) -> None:
        """Refuse what waits and stop the thread, which ends the batch that it is in first; at most 10 seconds."""
        with self._changed:
            self._draining = self._closing = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _admit(self) -> None:
        if not self.accepting:
            raise Unavailable("draining")

    def _enqueue(self, job: WorkItem) -> None:
        with self._changed:
            self._admit()
            if len(self._queue) >= self._max_queue:
                self._queue = deque(old for old in self._queue if not old.future.done())
            if len(self._queue) >= self._max_queue:
                raise Unavailable("full")
            self._queue.append(job)
            # In between, the thread either works or waits for company: waking it for every job would cost both.
            if len(self._queue) == 1 or len(self._queue) >= self._max_batch:
                self._changed.notify()

    def _loop(self) -> None:
        while jobs := self._take():
            try:
                self._run(jobs)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, the thread must outlive it
                log_failure(logger, "a batch failed", error)
                deliver([Outcome(job, None, Unavailable("failed")) for job in jobs])
            del jobs  # an idle thread keeps nobody's history

    def _take(self) -> list[WorkItem]:
        """What to do next; empty when the thread is to stop."""
        with self._changed:
            while not self._closing:
                if self._urgent:
                    return [self._urgent.popleft()]
                if jobs := self._pop():
                    return jobs
                self._rest()
            deliver([Outcome(job, None, Unavailable("draining")) for job in (*self._urgent, *self._queue)])
            self._queue.clear()
            self._urgent.clear()
            self._tell_drained()
            return []

    def _rest(self) -> None:
        """Wait for something to do, and where it is a request, a little longer for its company."""
        self._tell_drained()
        self._changed.wait_for(lambda: self._queue or self._urgent or self._drained or self._closing)
        if self._wait > 0 and self._queue and self._queue[0].kind is not None:
            self._changed.wait_for(self._company, timeout=self._wait)

    def _company(self) -> bool:
        return self._closing or self._draining or bool(self._urgent) or len(self._queue) >= self._max_batch

    def _pop(self) -> list[WorkItem]:
        """All jobs like the oldest one, up to a batch."""
        alive = deque(drop_expired(self._queue))
        taken: list[WorkItem] = []
        left: deque[WorkItem] = deque()
        for job in alive:
            fits = len(taken) < self._max_batch and job.kind == alive[0].kind
            (taken if fits else left).append(job)
        self._queue = left
        return taken

    def _tell_drained(self) -> None:
        deliver([Outcome(job, None) for job in self._drained])
        self._drained.clear()


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(Unavailable("expired"))


def _nothing() -> None:
    """What a job that only waits for the others does."""
