"""One inference thread and its bounded queue: pending requests that can be answered together make one batch.

Coroutines submit work and await futures; the thread passes batches to a function and wakes the event loop once for all
answers of a batch. Expired and cancelled requests are dropped before they cost anything. Reads and writes no files.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from serving.engine.interface import Request, Where
from serving.runtime.work_items import Outcome, Unavailable, WorkItem, deliver, drop_expired, log_failure

logger = logging.getLogger(__name__)


class Batcher:
    """The thread, its queue, and the rules of how a batch is taken from it.

    The oldest work item decides: all pending requests with its filter, up to `max_batch`, or all functions. An idle
    thread that gets a request waits up to `wait_seconds` for more. `urgent` work goes first, between two batches.
    """

    def __init__(
        self, run: Callable[[list[WorkItem]], None], *, max_batch: int, max_queue: int, wait_seconds: float
    ) -> None:
        """Start the thread; `run` gets work items of one kind, and passes each to `deliver`."""
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
        """Whether work can be submitted."""
        return not self._draining and self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Number of pending work items."""
        return len(self._queue)

    def pending(self) -> list[list[float]]:
        """The deadlines of the pending requests, in the batches that they will make."""
        with self._changed:
            requests = [each for each in self._queue if each.kind is not None and not each.future.done()]
        batches: list[list[float]] = []
        open_batches: dict[Where | None, list[float]] = {}
        for work_item in requests:
            batch = open_batches.get(work_item.kind)
            if batch is None or len(batch) == self._max_batch:
                batch = open_batches[work_item.kind] = []
                batches.append(batch)
            batch.append(work_item.deadline)
        return batches

    async def submit(self, work: Request | Callable[[], object], deadline: float) -> Any:
        """Return the answer, at the latest at the deadline (seconds of `time.monotonic`).

        Raises:
            Unavailable: the queue is full, the deadline passes, or the runtime is draining.
        """
        work_item = WorkItem(work, deadline)
        left = deadline - work_item.queued
        if left <= 0:
            raise Unavailable("expired")
        self._enqueue(work_item)
        loop = asyncio.get_running_loop()
        timer = None if math.isinf(deadline) else loop.call_later(left, _expire, work_item.future)
        try:
            return await work_item.future
        finally:
            if timer is not None:
                timer.cancel()

    async def urgent(self, work: Callable[[], object]) -> Any:
        """Call a function on the thread before all pending work, and return its result.

        Raises:
            Unavailable: the runtime is draining.
        """
        work_item = WorkItem(work)
        with self._changed:
            self._admit()
            self._urgent.append(work_item)
            self._changed.notify()
        return await work_item.future

    async def drain(self) -> None:
        """Refuse new work, and return when all that was admitted is answered."""
        work_item = WorkItem(lambda: None)  # marks the end of the queue
        with self._changed:
            self._draining = True
            if not self._thread.is_alive():
                return
            self._drained.append(work_item)
            self._changed.notify()
        await work_item.future

    def close(self) -> None:
        """Refuse pending work and stop the thread after its present batch; waits at most 10 seconds."""
        with self._changed:
            self._draining = self._closing = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _admit(self) -> None:
        if not self.accepting:
            raise Unavailable("draining")

    def _enqueue(self, work_item: WorkItem) -> None:
        with self._changed:
            self._admit()
            if len(self._queue) >= self._max_queue:
                self._queue = deque(old for old in self._queue if not old.future.done())
            if len(self._queue) >= self._max_queue:
                raise Unavailable("full")
            self._queue.append(work_item)
            # Otherwise the thread works, or waits for more to batch: waking it for every request would slow both down.
            if len(self._queue) == 1 or len(self._queue) >= self._max_batch:
                self._changed.notify()

    def _loop(self) -> None:
        while work_items := self._take():
            try:
                self._run(work_items)
            except Exception as error:  # noqa: BLE001 - no error may end the thread
                log_failure(logger, "a batch failed", error)
                deliver([Outcome(work_item, None, Unavailable("failed")) for work_item in work_items])
            del work_items  # an idle thread must not keep users' histories

    def _take(self) -> list[WorkItem]:
        """What to do next; empty when the thread has to stop."""
        with self._changed:
            while not self._closing:
                if self._urgent:
                    return [self._urgent.popleft()]
                if work_items := self._pop():
                    return work_items
                self._wait_for_work()
            deliver([Outcome(work_item, None, Unavailable("draining")) for work_item in (*self._urgent, *self._queue)])
            self._queue.clear()
            self._urgent.clear()
            self._notify_drained()
            return []

    def _wait_for_work(self) -> None:
        """Wait for work, and after a request a little longer for others to batch with it."""
        self._notify_drained()
        self._changed.wait_for(lambda: self._queue or self._urgent or self._drained or self._closing)
        if self._wait > 0 and self._queue and self._queue[0].kind is not None:
            self._changed.wait_for(self._batch_is_due, timeout=self._wait)

    def _batch_is_due(self) -> bool:
        return self._closing or self._draining or bool(self._urgent) or len(self._queue) >= self._max_batch

    def _pop(self) -> list[WorkItem]:
        """All work items of the oldest one's kind, up to a batch."""
        alive = deque(drop_expired(self._queue))
        taken: list[WorkItem] = []
        left: deque[WorkItem] = deque()
        for work_item in alive:
            fits = len(taken) < self._max_batch and work_item.kind == alive[0].kind
            (taken if fits else left).append(work_item)
        self._queue = left
        return taken

    def _notify_drained(self) -> None:
        deliver([Outcome(work_item, None) for work_item in self._drained])
        self._drained.clear()


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(Unavailable("expired"))
