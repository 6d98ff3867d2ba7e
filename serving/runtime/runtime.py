"""The runtime between HTTP and the engine: batches, deadlines, degradation, item updates and reloads.

Coroutines submit requests, one inference thread answers; every answer comes from exactly one bundle. Reads and writes
no files itself; `load` reads bundles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from pydantic import Field

from recsys.config import Config
from recsys.errors import DataError, RecsysError
from serving.engine.interface import Answer, Engine, EngineInfo, Request, Tier
from serving.release.deployment import Deployment, Live, ReloadInProgressError
from serving.runtime.batching import Batcher
from serving.runtime.degradation import Choice, DegradationConfig
from serving.runtime.item_updates import ItemUpdate, ItemUpdates
from serving.runtime.metrics import Metrics, batch_span
from serving.runtime.work_items import (
    Outcome,
    Unavailable,
    WorkItem,
    deliver,
    drop_expired,
    log_failure,
    on_reload_thread,
)

__all__ = ["Runtime", "RuntimeConfig", "Served", "Unavailable"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Served(NamedTuple):
    """An answer and how it was made.

    `degraded` is why the best tier was not used ("deadline", "queue", "failure: ..."), None where it was; `seconds` has
    queue, the engine's stages (of the whole batch) and total.
    """

    answer: Answer
    bundle: str
    tier: Tier
    degraded: str | None
    seconds: dict[str, float]


class RuntimeConfig(Config):
    """How requests are batched, how a bundle is warmed, and when a cheaper tier is used."""

    max_batch: int = Field(32, ge=1, description="requests answered together at most")
    max_queue: int = Field(192, ge=1, description="pending requests; more are refused at once")
    batch_wait_ms: float = Field(1.0, ge=0, le=1000, description="for which an idle thread waits for more to batch")
    warm_requests: int = Field(8, ge=0, le=256, description="of a batch that warms a new bundle; 0 does not warm it")
    degradation: DegradationConfig = DegradationConfig()


class Runtime:
    """Answers requests with the bundle that is deployed; `close` it at the end. Its coroutines may be cancelled."""

    def __init__(
        self,
        engine: Engine,
        config: RuntimeConfig,
        *,
        metrics: Metrics,
        load: Callable[[str | None], Engine],
        updates: ItemUpdates | None = None,
    ) -> None:
        """Warm the engine, which only the runtime may change from now on, and start the inference thread.

        Args:
            load: makes the engine of a source (None: the source given at the start) for `reload`.
            updates: applied to every engine that is put in place.

        Raises:
            ArtifactError: the engine cannot answer.
        """
        self._metrics = metrics
        self._updates = updates or ItemUpdates()
        warm = config.warm_requests
        self._deployment = Deployment(
            engine, load, warm_requests=warm, updates=self._updates, degradation=config.degradation
        )
        wait = config.batch_wait_ms / 1000
        self._batcher = Batcher(self._run, max_batch=config.max_batch, max_queue=config.max_queue, wait_seconds=wait)
        metrics.watch_depth(lambda: self._batcher.depth)
        metrics.bundle(engine.info)

    @property
    def engine(self) -> Engine:
        """The current engine; any thread may call item, search, values, check, info and tiers."""
        return self._deployment.current.engine

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._batcher.accepting

    async def recommend(self, request: Request, deadline: float) -> Served:
        """Answer a request before a deadline, in seconds of `time.monotonic`.

        Raises:
            Unavailable: the queue is full, the deadline passes, the runtime drains, or every tier failed.
            DataError: the request cannot be answered.
        """
        self.engine.check(request)
        return cast(Served, await self._submitted(request, deadline))

    async def call(self, work: Callable[[Engine], T], deadline: float) -> tuple[T, str]:
        """Call a function with the engine on the inference thread; returns its result and the bundle's id.

        Raises:
            Unavailable: as for `recommend`; also when the work raises anything but a `RecsysError`.
            RecsysError: what the work raises.
        """

        def called() -> tuple[T, str]:
            live = self._deployment.current
            return work(live.engine), live.bundle

        return cast(tuple[T, str], await self._submitted(called, deadline))

    async def update_items(self, update: ItemUpdate) -> EngineInfo:
        """Add, withdraw and restore items between two batches, before all pending requests; later bundles get it too.

        Raises as `ItemUpdates.apply`, and Unavailable where the runtime drains or the engine fails.
        """

        def updated() -> EngineInfo:
            with self._updates.lock:
                live = self._deployment.current
                try:
                    self._updates.apply(live.engine, update)
                finally:
                    live.items_changed()
                    self._metrics.bundle(live.engine.info)
            return live.engine.info

        return cast(EngineInfo, await self._batcher.urgent(updated))

    async def reload(self, source: str | None) -> EngineInfo:
        """Load and warm a bundle beside the current one, then let it answer; continues if its caller disconnects.

        Raises as `Deployment.reload`, and Unavailable where the runtime drains.
        """
        if not self.ready:
            raise Unavailable("draining")
        return await on_reload_thread(lambda: self._replace(lambda: self._deployment.reload(source), "loaded"))

    async def rollback(self) -> EngineInfo:
        """Let the previous bundle answer again; raises as `Deployment.rollback`."""
        return await on_reload_thread(lambda: self._replace(self._deployment.rollback, "rolled back"))

    async def drain(self) -> None:
        """Refuse new requests; returns when those that were admitted have their answers."""
        await self._batcher.drain()

    def close(self) -> None:
        """Stop the inference thread; pending requests are refused."""
        self._batcher.close()

    async def _submitted(self, work: Request | Callable[[], object], deadline: float) -> object:
        try:
            return await self._batcher.submit(work, deadline)
        except Unavailable as error:
            self._metrics.unavailable(error.reason)
            raise

    def _replace(self, deploy: Callable[[], Live], outcome: str) -> EngineInfo:
        try:
            live = deploy()
        except RecsysError as error:
            self._metrics.reload("busy" if isinstance(error, ReloadInProgressError) else "refused")
            raise
        self._metrics.reload(outcome)
        with self._updates.lock:
            self._metrics.bundle(self.engine.info)
        logger.info("bundle %s %s", live.bundle, outcome)
        return live.engine.info

    def _run(self, work_items: list[WorkItem]) -> None:
        """On the inference thread: answer requests together, or call functions one by one."""
        if work_items[0].kind is None:
            for work_item in work_items:
                deliver([_called(each) for each in drop_expired([work_item])])
            return
        live = self._deployment.current
        while work_items := drop_expired(work_items):
            now = time.monotonic()
            pending = [[deadline - now for deadline in batch] for batch in self._batcher.pending()]
            choice = live.selector.choose([work_item.deadline - now for work_item in work_items], pending)
            self._answer(live, [work_items[position] for position in choice.members], choice)
            rest = sorted(set(range(len(work_items))) - {*choice.members})
            work_items = [work_items[position] for position in rest]

    def _answer(self, live: Live, work_items: list[WorkItem], choice: Choice) -> None:
        """Deliver answers at the chosen tier, or at the next cheaper one that does not fail."""
        tier: Tier | None = choice.tier
        reason = choice.reason
        while tier is not None:
            try:
                outcomes = self._attempt(live, work_items, tier, reason)
            except Exception as error:  # noqa: BLE001 - any error of a tier may be answered by a cheaper one
                live.selector.failed(tier, error)
                self._metrics.failure(tier)
                log_failure(logger, f"bundle {live.bundle} failed at '{tier}'", error)
                tier, reason = live.selector.below(tier), f"failure: {type(error).__name__}"
                continue
            deliver(outcomes)
            return
        deliver([Outcome(work_item, None, Unavailable("failed")) for work_item in work_items])

    def _attempt(self, live: Live, work_items: list[WorkItem], tier: Tier, reason: str | None) -> list[Outcome]:
        """Answers of one tier; an invalid request is found by bisection, and alone gets its error."""
        begun = time.monotonic()
        try:
            with batch_span(tier, len(work_items)):
                answers = live.engine.recommend([cast(Request, work_item.work) for work_item in work_items], tier)
        except DataError as error:
            if len(work_items) == 1:
                return [Outcome(work_items[0], None, error)]
            half = len(work_items) // 2
            halves = drop_expired(work_items[:half]), drop_expired(work_items[half:])
            return [outcome for part in halves if part for outcome in self._attempt(live, part, tier, reason)]
        if len(answers) != len(work_items):
            raise RuntimeError(f"{len(answers)} answers to {len(work_items)} requests")
        ended = time.monotonic()
        live.selector.observe(tier, len(work_items), ended - begun)
        self._metrics.batch(tier, len(work_items), ended - begun)
        for stages in {id(answer.seconds): answer.seconds for answer in answers}.values():
            self._metrics.stages(stages)
        outcomes = []
        for work_item, answer in zip(work_items, answers, strict=True):
            queue = begun - work_item.queued
            checked, removed = live.checked(answer)
            self._metrics.stages({"queue": queue})
            if removed:
                self._metrics.out_of_catalogue(removed)
            if reason is not None:
                self._metrics.degraded(tier, reason)
            seconds = {"queue": queue, **answer.seconds, "total": ended - work_item.queued}
            outcomes.append(Outcome(work_item, Served(checked, live.bundle, tier, reason, seconds)))
        return outcomes


def _called(work_item: WorkItem) -> Outcome:
    """Call a work item's function."""
    try:
        return Outcome(work_item, cast(Callable[[], object], work_item.work)())
    except RecsysError as error:
        return Outcome(work_item, None, error)
    except Exception as error:  # noqa: BLE001 - no call may kill the thread
        log_failure(logger, "a call failed", error)
        return Outcome(work_item, None, Unavailable("failed"))
