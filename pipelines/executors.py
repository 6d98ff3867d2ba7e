"""Where the partitions of a stage are computed: in this process, in several of them, or on a Ray cluster.

All executors do the same: what is committed already is skipped, the rest is computed and committed, and the outputs
come back in the partitions' order. A worker that dies is replaced and its partition done again. Nothing heavy is
imported here, so that a worker can choose its number of threads before torch and FAISS count the cores.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recsys.cluster import import_ray, ray_cluster
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.partitions import Function, Partition, Shared, Task
    from recsys.tracking import Tracker

logger = logging.getLogger(__name__)

Kind = Literal["local", "ray"]
KINDS: tuple[Kind, ...] = ("local", "ray")
RETRIES = 3  # times that dying workers may bring nothing to an end
THREADS = "OMP_NUM_THREADS"


class Executor(ABC):
    """Computes partitions with `workers` at once.

    What it computes does not depend on the number of workers. Threads are another matter: sums of floats may round
    differently with another number of them, so workers have all as many (`threads`).
    """

    kind: Kind

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __repr__(self) -> str:
        return f"<Executor {self.kind} ({self.workers} workers)>"

    @property
    def spreads(self) -> bool:
        """Whether partitions are computed elsewhere than in this process."""
        return True

    def map_partitions(
        self, function: Function, partitions: Sequence[Partition], *, shared: Shared, out: Path, tracker: Tracker
    ) -> list[Path]:
        """The folder of every partition's output, in the order of the partitions.

        Args:
            function: at the top of a module; called as (partition, shared, folder to write into, tracker).
            out: the folder of the outputs; on Ray, where every machine of the cluster sees it.

        Raises:
            ConfigError: workers keep dying.
            RecsysError: as the function raised it, with the partition's name.
        """
        from pipelines.partitions import Task

        task = Task.of(function, shared, out)
        task.sweep()
        missing = task.missing(partitions)
        for _ in tracker.track(self._compute(task, missing, tracker), "partitions", len(missing)):
            pass
        task.sweep()
        return [task.folder(partition) for partition in partitions]

    @abstractmethod
    def _compute(self, task: Task, missing: Sequence[Partition], tracker: Tracker) -> Iterator[Partition]:
        """Commit the partitions, and yield each that is."""


class LocalExecutor(Executor):
    """Processes of this machine; one worker is this process itself, with all of its threads."""

    kind: Kind = "local"

    @property
    def spreads(self) -> bool:
        return self.workers > 1

    def _compute(self, task: Task, missing: Sequence[Partition], tracker: Tracker) -> Iterator[Partition]:
        if not self.spreads:
            for partition in missing:
                task.run(partition, tracker)
                yield partition
            return
        fruitless = 0
        while missing:
            try:
                yield from self._pooled(task, missing)
            except BrokenProcessPool as error:
                left = task.missing(missing)
                fruitless = fruitless + 1 if len(left) == len(missing) else 0
                if fruitless > RETRIES:
                    raise _dying(left[0], self.workers) from error
            missing = task.missing(missing)

    def _pooled(self, task: Task, partitions: Sequence[Partition]) -> Iterator[Partition]:
        from pipelines.partitions import run_partition

        context = get_context("spawn")  # FAISS cannot be searched in a forked process
        ended, ending = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(
            min(self.workers, len(partitions)), context, _start, initargs=(ended, threads(self.workers))
        )
        try:
            futures = {pool.submit(run_partition, task, partition): partition for partition in partitions}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
            pool.shutdown()
        finally:
            ending.close()  # workers that are still at it end now
            pool.shutdown(cancel_futures=True)
            ended.close()


class RayExecutor(Executor):
    """Tasks on the Ray cluster that RAY_ADDRESS names, or on one of `workers` CPUs that is started here for the time.

    Raises:
        DependencyError: Ray is not installed.
    """

    kind: Kind = "ray"

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._ray = import_ray()

    def _compute(self, task: Task, missing: Sequence[Partition], tracker: Tracker) -> Iterator[Partition]:
        from pipelines.partitions import run_partition

        if not missing:
            return
        with ray_cluster(self.workers) as ray:
            gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / self.workers)
            environment = {"env_vars": {THREADS: threads(self.workers)}}
            remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, runtime_env=environment)(run_partition)
            waiting = iter(missing)
            running: dict[Any, Partition] = {}
            try:
                while True:
                    more = islice(waiting, self.workers - len(running))
                    running |= {remote.remote(task, partition): partition for partition in more}
                    if not running:
                        return
                    done, _ = ray.wait(list(running), num_returns=1)
                    partition = running.pop(done[0])
                    self._result(done[0], partition)
                    yield partition
            except (Exception, GeneratorExit):
                # Not cancelled: where a task is just done, Ray's cancelling ends this process. What runs is committed.
                # An interrupt does not come here: it waits for nothing.
                if running:
                    logger.warning("stopping; waiting for partitions that are running: %d", len(running))
                    ray.wait(list(running), num_returns=len(running))
                raise

    def _result(self, reference: Any, partition: Partition) -> None:
        """Raise what the task raised."""
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            raise _dying(partition, self.workers) from error


def choose_executor(kind: Kind, workers: int | None = None) -> Executor:
    """The executor of that kind; without a number, Ray gets a worker a core and `local` is this process alone.

    Raises:
        ConfigError: another kind, or fewer than one worker.
        DependencyError: Ray is asked for and not installed.
    """
    if kind not in KINDS:
        raise ConfigError(f"executor '{kind}' is not known; choose one of {', '.join(KINDS)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers cannot compute anything; give 1 or more")
    if kind == "ray":
        return RayExecutor(workers or cores())
    return LocalExecutor(workers or 1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(workers: int) -> str:
    """Threads of each of several workers: what OMP_NUM_THREADS says, or the cores shared out evenly."""
    return os.environ.get(THREADS) or str(max(1, cores() // workers))


def _start(ended: Connection, number: str) -> None:
    """Begin a worker process: so many threads, no word about Ctrl-C, and an end when the driver ends or says so."""
    os.environ[THREADS] = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()


def _end_with(ended: Connection) -> None:
    ended.poll(None)  # nothing is ever sent: it returns when the other end is closed, by a kill as well
    os._exit(1)


def _dying(partition: Partition, workers: int) -> ConfigError:
    return ConfigError(
        f"partition {partition.name}: its worker died {RETRIES + 1} times, killed or out of memory; "
        f"use fewer workers than {workers}, or machines with more memory"
    )
