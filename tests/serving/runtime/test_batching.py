"""Pending requests are answered in batches by one thread that no error ends; cancelled ones cost nothing."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serving.engine.interface import Request
from serving.runtime.batching import Batcher
from serving.runtime.work_items import Outcome, Reason, Unavailable, WorkItem, deliver

PATIENCE = 30.0
FAR = math.inf
BOOKS, GAMES = (("categories", ("books",)),), (("categories", ("games",)),)


class Recorder:
    """Answers every job with its own work, and keeps a batch inside while its gate is shut."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self, jobs: list[WorkItem]) -> None:
        self.batches.append([job.work for job in jobs])
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        deliver([Outcome(job, job.work) for job in jobs])


@contextmanager
def batching(
    run: Callable[[list[WorkItem]], None], *, max_batch: int = 4, max_queue: int = 100, wait: float = 0.0
) -> Iterator[Batcher]:
    batcher = Batcher(run, max_batch=max_batch, max_queue=max_queue, wait_seconds=wait)
    try:
        yield batcher
    finally:
        batcher.close()


def ask(name: str, where: Any = ()) -> Request:
    return Request(history=(name,), where=where)


def one() -> int:
    return 1


def two() -> int:
    return 2


FIRST = ask("first")


async def occupied(batcher: Batcher, run: Recorder) -> asyncio.Task[Any]:
    """Have the thread stay inside its first batch until the gate opens."""
    run.gate.clear()
    first = asyncio.create_task(batcher.submit(FIRST, FAR))
    assert await asyncio.to_thread(run.entered.wait, PATIENCE)
    return first


async def queued(batcher: Batcher, works: list[Any]) -> list[asyncio.Task[Any]]:
    """Put works into the queue, in this order."""
    tasks = [asyncio.create_task(batcher.submit(work, FAR)) for work in works]
    await asyncio.sleep(0)
    return tasks


async def refused(waiting: Awaitable[object]) -> Reason:
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.retry_after > 0
    return caught.value.reason


def test_what_waits_is_taken_together_up_to_a_batch() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        works = [ask(str(n)) for n in range(6)]
        tasks = await queued(batcher, works)
        assert batcher.depth == 6
        run.gate.set()
        assert await asyncio.gather(first, *tasks) == [FIRST, *works]
        assert run.batches == [[FIRST], works[:4], works[4:]]

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_different_filters_and_functions_are_taken_apart_and_the_oldest_first() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        a, b, c, d = ask("a", BOOKS), ask("b", GAMES), ask("c", BOOKS), ask("d", GAMES)
        tasks = await queued(batcher, [a, one, b, c, two, d])
        assert batcher.pending() == [[FAR, FAR], [FAR, FAR]]
        run.gate.set()
        await asyncio.gather(first, *tasks)
        assert run.batches == [[FIRST], [a, c], [one, two], [b, d]]

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_an_idle_thread_waits_for_company_until_the_batch_is_full() -> None:
    async def main() -> None:
        works = [ask(str(n)) for n in range(4)]
        assert await asyncio.gather(*(batcher.submit(work, FAR) for work in works)) == works
        assert run.batches == [works]

    run = Recorder()
    with batching(run, wait=PATIENCE) as batcher:
        asyncio.run(main())


def test_a_full_queue_sheds_at_once_and_cancelled_requests_free_it() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        tasks = await queued(batcher, [ask("a"), ask("b")])
        assert await refused(batcher.submit(ask("c"), FAR)) == "full"
        tasks[0].cancel()
        await asyncio.sleep(0)
        tasks += await queued(batcher, [ask("d")])
        run.gate.set()
        await asyncio.gather(first, *tasks[1:])
        assert run.batches == [[FIRST], [ask("b"), ask("d")]]

    run = Recorder()
    with batching(run, max_queue=2) as batcher:
        asyncio.run(main())


def test_expired_and_cancelled_work_never_reaches_the_thread() -> None:
    async def main() -> None:
        assert await refused(batcher.submit(ask("late"), time.monotonic() - 1)) == "expired"
        first = await occupied(batcher, run)
        (gone,) = await queued(batcher, [ask("gone")])
        assert await refused(batcher.submit(ask("short"), time.monotonic() + 0.01)) == "expired"
        gone.cancel()
        await asyncio.wait([gone])
        run.gate.set()
        await first
        assert await batcher.submit(ask("last"), FAR) == ask("last")
        assert run.batches == [[FIRST], [ask("last")]]

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_the_thread_drops_expired_work_though_the_event_loop_is_stuck() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        deadline = time.monotonic() + 0.01
        short = asyncio.create_task(batcher.submit(ask("short"), deadline))
        await asyncio.sleep(0)
        while time.monotonic() <= deadline:  # the loop's own timer cannot fire meanwhile
            pass
        (last,) = await queued(batcher, [ask("last")])
        run.gate.set()
        assert await refused(short) == "expired"
        await asyncio.gather(first, last)
        assert ask("short") not in [work for batch in run.batches for work in batch]

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_an_answer_that_comes_too_late_is_not_waited_for() -> None:
    async def main() -> None:
        run.gate.clear()
        assert await refused(batcher.submit(ask("slow"), time.monotonic() + 0.01)) == "expired"
        run.gate.set()
        assert await batcher.submit(ask("next"), FAR) == ask("next")

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_a_crash_fails_its_batch_alone() -> None:
    async def main() -> None:
        run.error = RuntimeError("broken")
        assert await refused(batcher.submit(ask("a"), FAR)) == "failed"
        run.error = None
        assert await batcher.submit(ask("b"), FAR) == ask("b")

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_a_batch_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        tasks = await queued(batcher, [ask(str(n)) for n in range(4)])
        loop = asyncio.get_running_loop()
        wake, woken = loop.call_soon_threadsafe, list[object]()

        def counting(callback: Callable[..., object], *args: Any) -> asyncio.Handle:
            woken.append(callback)
            return wake(callback, *args)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
        run.gate.set()
        await asyncio.gather(first, *tasks)
        assert len(woken) == len(run.batches) == 2

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_urgent_work_goes_before_what_waits() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        tasks = await queued(batcher, [ask("a"), two])
        urgent = asyncio.create_task(batcher.urgent(one))
        await asyncio.sleep(0)
        run.gate.set()
        assert await urgent is one
        await asyncio.gather(first, *tasks)
        assert run.batches == [[FIRST], [one], [ask("a")], [two]]

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_drain_refuses_new_work_and_waits_for_the_rest() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        tasks = await queued(batcher, [ask("a"), ask("b")])
        draining = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        assert not batcher.accepting
        assert await refused(batcher.submit(ask("c"), FAR)) == "draining"
        assert await refused(batcher.urgent(one)) == "draining"
        assert not draining.done()
        run.gate.set()
        await draining
        assert all(task.done() for task in (first, *tasks))
        await batcher.drain()

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())
        batcher.close()
        asyncio.run(batcher.drain())


def test_close_refuses_what_waits() -> None:
    async def main() -> None:
        first = await occupied(batcher, run)
        tasks = await queued(batcher, [ask("a"), ask("b")])
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while batcher.accepting:
            await asyncio.sleep(0)
        run.gate.set()
        assert await first == FIRST
        assert [await refused(task) for task in tasks] == ["draining", "draining"]
        await closing

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(main())


def test_answers_to_a_closed_event_loop_are_dropped() -> None:
    async def leaving() -> None:
        await occupied(batcher, run)

    async def main() -> None:
        assert await batcher.submit(ask("a"), FAR) == ask("a")

    run = Recorder()
    with batching(run) as batcher:
        asyncio.run(leaving())
        run.gate.set()
        asyncio.run(main())
