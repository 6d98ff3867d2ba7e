"""Executors compute the partitions of a stage: in this process, in several processes, or on a Ray cluster.

Every executor skips committed partitions, computes and commits the others, and returns the outputs in the order of the
partitions. A worker that dies is replaced and its partition computed again. Nothing heavy is imported here, so that a
worker can set its number of threads before torch and FAISS read it.
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
RETRIES = 3  # times in a row that workers may die without completing a partition
THREADS = "OMP_NUM_THREADS"


class Executor(ABC):
    """Computes partitions with `workers` at a time.

    Results do not depend on the number of workers. They may depend on the number of threads, because sums of floats
    round differently, so all workers have the same number (`threads`).
    """

    kind: Kind

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __repr__(self) -> str:
        return f"<Executor {self.kind} ({self.workers} workers)>"

    @property
    def distributed(self) -> bool:
        """Whether partitions are computed in other processes."""
        return True

    def map_partitions(
        self, function: Function, partitions: Sequence[Partition], *, shared: Shared, out: Path, tracker: Tracker
    ) -> list[Path]:
        """The folder of every partition's output, in the order of the partitions.

        Args:
            function: at the top level of a module; called as (partition, shared, folder to write into, tracker).
            out: the folder of the outputs; on Ray, shared by all machines of the cluster.

        Raises:
            ConfigError: workers keep dying.
            RecsysError: from the function, with the partition's name.
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
        """Compute and commit the partitions; yield each when it is committed."""


class LocalExecutor(Executor):
    """Processes of this machine; one worker is this process itself, with all its threads."""

    kind: Kind = "local"

    @property
    def distributed(self) -> bool:
        return self.workers > 1

    def _compute(self, task: Task, missing: Sequence[Partition], tracker: Tracker) -> Iterator[Partition]:
        if not self.distributed:
            for partition in missing:
                task.run(partition, tracker)
                yield partition
            return
        failures = 0
        while missing:
            try:
                yield from self._pooled(task, missing)
            except BrokenProcessPool as error:
                left = task.missing(missing)
                failures = failures + 1 if len(left) == len(missing) else 0
                if failures > RETRIES:
                    raise _worker_died(left[0], self.workers) from error
            missing = task.missing(missing)

    def _pooled(self, task: Task, partitions: Sequence[Partition]) -> Iterator[Partition]:
        from pipelines.partitions import run_partition

        context = get_context("spawn")  # FAISS cannot be searched in a forked process
        receiver, sender = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(
            min(self.workers, len(partitions)), context, _start, initargs=(receiver, threads(self.workers))
        )
        try:
            futures = {pool.submit(run_partition, task, partition): partition for partition in partitions}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
            pool.shutdown()
        finally:
            sender.close()  # ends workers that are still running
            pool.shutdown(cancel_futures=True)
            receiver.close()


class RayExecutor(Executor):
    """Tasks on the Ray cluster that RAY_ADDRESS names, or on a temporary one of `workers` CPUs on this machine.

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
            pending = iter(missing)
            running: dict[Any, Partition] = {}
            try:
                while True:
                    more = islice(pending, self.workers - len(running))
                    running |= {remote.remote(task, partition): partition for partition in more}
                    if not running:
                        return
                    done, _ = ray.wait(list(running), num_returns=1)
                    partition = running.pop(done[0])
                    self._result(done[0], partition)
                    yield partition
            except (Exception, GeneratorExit):
                # Running tasks are not cancelled: cancelling one that is just done makes Ray end this process. They are
                # committed instead. KeyboardInterrupt is not caught here, so that it does not wait.
                if running:
                    logger.warning("stopping; waiting for %d running partitions", len(running))
                    ray.wait(list(running), num_returns=len(running))
                raise

    def _result(self, reference: Any, partition: Partition) -> None:
        """Raise the task's error, if any."""
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            raise _worker_died(partition, self.workers) from error


def choose_executor(kind: Kind, workers: int | None = None) -> Executor:
    """The executor of a kind; by default Ray gets one worker per core, and `local` is this process.

    Raises:
        ConfigError: an unknown kind, or fewer than one worker.
        DependencyError: `ray` without Ray installed.
    """
    if kind not in KINDS:
        raise ConfigError(f"executor: got '{kind}'; allowed: {', '.join(KINDS)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: got {workers}; give 1 or more")
    if kind == "ray":
        return RayExecutor(workers or cores())
    return LocalExecutor(workers or 1)


def cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(workers: int) -> str:
    """Threads of each worker: OMP_NUM_THREADS, or an equal share of the cores."""
    return os.environ.get(THREADS) or str(max(1, cores() // workers))


def _start(receiver: Connection, number: str) -> None:
    """Initialize a worker process: number of threads, Ctrl-C ignored, and an exit together with the driver."""
    os.environ[THREADS] = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_driver(receiver)


def exit_with_driver(receiver: Connection) -> None:
    """End this process when the driver closes its end of the pipe, or is killed."""
    threading.Thread(target=_await_end, args=(receiver,), daemon=True).start()


def _await_end(receiver: Connection) -> None:
    receiver.poll(None)  # nothing is sent
    os._exit(1)


def _worker_died(partition: Partition, workers: int) -> ConfigError:
    return ConfigError(
        f"partition {partition.name}: its worker died {RETRIES + 1} times, killed or out of memory; "
        f"use fewer workers than {workers}, or machines with more memory"
    )
