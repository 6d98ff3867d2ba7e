"""The runtime between HTTP and the engine: batches, deadlines, the fallback ladder, and changes of the bundle.

Coroutines ask, one inference thread answers; every answer comes from exactly one bundle. Reads and writes no files
itself; `load` reads bundles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from pydantic import Field

from recsys.config import Config
from recsys.errors import ConfigError, DataError, RecsysError
from serving.engine.interface import Answer, Engine, EngineInfo, Request, Tier
from serving.release.deployment import Deployment, Live
from serving.runtime.batching import Batcher
from serving.runtime.degradation import Arrivals, Choice, LadderConfig
from serving.runtime.item_updates import ItemUpdate, ItemUpdates
from serving.runtime.metrics import Metrics, batch_span
from serving.runtime.work_items import Outcome, Unavailable, WorkItem, beside, deliver, drop_expired, log_failure

__all__ = ["Runtime", "RuntimeConfig", "Served", "Unavailable"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Served(NamedTuple):
    """An answer and how it came about.

    `degraded` tells why the best tier was not used ("deadline", "queue", "failure: ..."), None where it was;
    `seconds` has queue, the engine's stages (of the whole batch) and total.
    """

    answer: Answer
    bundle: str
    tier: Tier
    degraded: str | None
    seconds: dict[str, float]


class RuntimeConfig(Config):
    """How requests are batched and what is asked of a bundle before it answers."""

    max_batch: int = Field(default=32, ge=1, description="requests answered together at most")
    max_queue: int = Field(default=192, ge=1, description="requests that may wait; more are refused at once")
    batch_wait_ms: float = Field(
        default=1.0, ge=0, le=1000, description="for which an idle thread waits for company; 0 takes what waits"
    )
    warm_requests: int = Field(
        default=8, ge=0, le=256, description="a new bundle is tested and warmed with; 0 neither tests nor warms it"
    )
    ladder: LadderConfig = LadderConfig()


class Runtime:
    """Answers requests with the bundle that is deployed; `close` it in the end. Its coroutines may be cancelled."""

    def __init__(
        self,
        engine: Engine,
        config: RuntimeConfig,
        *,
        metrics: Metrics,
        load: Callable[[str | None], Engine],
        changes: ItemUpdates | None = None,
    ) -> None:
        """Test and warm the engine, and start the inference thread.

        Args:
            engine: answers from now on; it is the runtime's alone but for its reads.
            config: of batches and of the ladder.
            metrics: is told what happens.
            load: makes the engine of a source (None: the source it had from the start) for `reload`.
            changes: live changes of items, made to every engine that comes to answer.

        Raises:
            ArtifactError: the engine fails its test.
        """
        self._metrics = metrics
        self._arrivals = Arrivals()
        self._changes = changes or ItemUpdates()
        self._deployment = Deployment(
            engine,
            load,
            warm_requests=config.warm_requests,
            changes=self._changes,
            room=max(1, config.max_queue - config.max_batch),
            ladder=config.ladder,
        )
        self._batcher = Batcher(
            self._run,
            max_batch=config.max_batch,
            max_queue=config.max_queue,
            wait_seconds=config.batch_wait_ms / 1000,
        )
        metrics.watch_depth(lambda: self._batcher.depth)
        metrics.bundle(engine.info)

    @property
    def engine(self) -> Engine:
        """The current engine, for what may be read on any thread: item, search, values, check, info, tiers."""
        return self._deployment.current.engine

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._batcher.accepting

    async def recommend(self, request: Request, deadline: float) -> Served:
        """Answer a request by a moment of `time.monotonic`.

        Raises:
            Unavailable: the queue is full, the deadline passes, the runtime drains, or every tier failed.
            DataError: the request cannot be answered.
        """
        self.engine.check(request)
        self._arrivals.count()
        return cast(Served, await self._waiting(request, deadline))

    async def call(self, work: Callable[[Engine], T], deadline: float) -> tuple[T, str]:
        """Do something with the engine on the inference thread; returns its result and the bundle's id.

        Raises:
            Unavailable: as for `recommend`; also when the work raises anything but a `RecsysError`.
            RecsysError: what the work raises.
        """

        def called() -> tuple[T, str]:
            live = self._deployment.current
            return work(live.engine), live.bundle

        return cast(tuple[T, str], await self._waiting(called, deadline))

    async def change(self, change: ItemUpdate) -> EngineInfo:
        """Add, withdraw and restore items between two batches, before whatever waits; the next bundle gets it too.

        Raises:
            Unavailable: the runtime drains, or the engine fails.
            DataError: the engine refuses.
        """

        def changed() -> EngineInfo:
            with self._changes.lock:
                live = self._deployment.current
                try:
                    self._changes.apply(live.engine, change)
                finally:
                    live.changed()
                self._metrics.bundle(live.engine.info)
            return live.engine.info

        return cast(EngineInfo, await self._batcher.urgent(changed))

    async def reload(self, source: str | None) -> EngineInfo:
        """Load, test and warm a bundle beside the present one, then let it answer; goes on if its caller leaves.

        Raises:
            ArtifactError: the bundle cannot be served; nothing has changed.
            ConfigError: a reload is in progress.
            Unavailable: the runtime drains.
        """
        if not self.ready:
            raise Unavailable("draining")
        return await beside(lambda: self._replace(lambda: self._deployment.reload(source), "loaded"))

    async def rollback(self) -> EngineInfo:
        """Let the previous bundle answer again.

        Raises:
            DataError: there is none.
            ConfigError: a reload is in progress.
        """
        return await beside(lambda: self._replace(self._deployment.rollback, "rolled back"))

    async def drain(self) -> None:
        """Take no more requests; returns when those that were admitted have their answers."""
        await self._batcher.drain()

    def close(self) -> None:
        """Stop the inference thread; what still waits is refused."""
        self._batcher.close()

    async def _waiting(self, work: Request | Callable[[], object], deadline: float) -> object:
        try:
            return await self._batcher.submit(work, deadline)
        except Unavailable as error:
            self._metrics.unavailable(error.reason)
            raise

    def _replace(self, deploy: Callable[[], Live], outcome: str) -> EngineInfo:
        try:
            live = deploy()
        except RecsysError as error:
            self._metrics.reload("busy" if isinstance(error, ConfigError) else "refused")
            raise
        self._metrics.reload(outcome)
        with self._changes.lock:
            self._metrics.bundle(self.engine.info)
        logger.info("bundle %s %s", live.bundle, outcome)
        return live.engine.info

    def _run(self, jobs: list[WorkItem]) -> None:
        """On the inference thread: answer requests together, or call functions one by one."""
        if jobs[0].kind is None:
            for job in jobs:
                deliver([_called(each) for each in drop_expired([job])])
            return
        live = self._deployment.current
        while jobs := drop_expired(jobs):
            now = time.monotonic()
            behind = [[deadline - now for deadline in batch] for batch in self._batcher.waiting()]
            left = [job.deadline - now for job in jobs]
            choice = live.ladder.choose(left, behind, rate=self._arrivals.rate())
            members = set(choice.members)
            self._answer(live, [jobs[place] for place in choice.members], choice)
            jobs = [job for place, job in enumerate(jobs) if place not in members]

    def _answer(self, live: Live, jobs: list[WorkItem], choice: Choice) -> None:
        """Deliver answers at the chosen tier, or at the next cheaper one that does not fail."""
        tier: Tier | None = choice.tier
        reason = choice.reason
        while tier is not None:
            try:
                outcomes = self._attempt(live, jobs, tier, reason)
            except Exception as error:  # noqa: BLE001 - whatever a tier raises, the next cheaper one may answer
                live.ladder.failed(tier, error)
                self._metrics.failure(tier)
                log_failure(logger, f"bundle {live.bundle} failed at '{tier}'", error)
                tier, reason = live.ladder.below(tier), f"failure: {type(error).__name__}"
                continue
            deliver(outcomes)
            return
        deliver([Outcome(job, None, Unavailable("failed")) for job in jobs])

    def _attempt(self, live: Live, jobs: list[WorkItem], tier: Tier, reason: str | None) -> list[Outcome]:
        """Answers of one tier; a request that cannot be answered is found by halving, and alone gets its error."""
        begun = time.monotonic()
        try:
            with batch_span(tier, len(jobs)):
                answers = live.engine.recommend([cast(Request, job.work) for job in jobs], tier)
        except DataError as error:
            if len(jobs) == 1:
                return [Outcome(jobs[0], None, error)]
            half = len(jobs) // 2
            halves = drop_expired(jobs[:half]), drop_expired(jobs[half:])
            return [outcome for part in halves if part for outcome in self._attempt(live, part, tier, reason)]
        if len(answers) != len(jobs):
            raise RuntimeError(f"{len(answers)} answers to {len(jobs)} requests")
        ended = time.monotonic()
        live.ladder.observe(tier, len(jobs), ended - begun)
        self._metrics.batch(tier, len(jobs), ended - begun)
        for stages in {id(answer.seconds): answer.seconds for answer in answers}.values():
            self._metrics.stages(stages)
        outcomes = []
        for job, answer in zip(jobs, answers, strict=True):
            queue = begun - job.queued
            legal, illegal = live.checked(answer)
            self._metrics.stages({"queue": queue})
            if illegal:
                self._metrics.illegal(illegal)
            if reason is not None:
                self._metrics.degraded(tier, reason)
            seconds = {"queue": queue, **answer.seconds, "total": ended - job.queued}
            outcomes.append(Outcome(job, Served(legal, live.bundle, tier, reason, seconds)))
        return outcomes


def _called(job: WorkItem) -> Outcome:
    """Call a job's function."""
    try:
        return Outcome(job, cast(Callable[[], object], job.work)())
    except RecsysError as error:
        return Outcome(job, None, error)
    except Exception as error:  # noqa: BLE001 - nothing that is called may kill the thread
        log_failure(logger, "a call failed", error)
        return Outcome(job, None, Unavailable("failed"))
