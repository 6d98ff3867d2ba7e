"""Runs one stage in several processes of this machine that train its model together (`recsys ... --processes N`).

The processes have the environment that `torchrun` gives. The first one's log lines, metrics, progress and notes come
back to this process, which alone writes the run's logs and MLflow. When one process fails, or this one ends, all end.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FunctionType
from typing import cast

from pipelines import Stage
from pipelines.config import RunConfig
from pipelines.executors import cores
from pipelines.process_events import Replay
from pipelines.process_worker import SECONDS, Call, Place, work
from pipelines.runner import StageFunction, load_stage
from recsys.artifacts import StageRun
from recsys.errors import ConfigError, ModelError
from recsys.tracking import Tracker

SHARED = ("finetune",)  # stages whose training several processes share


def load_stage_for(processes: int, stage: Stage) -> StageFunction:
    """The stage's function, in so many processes if its training can be shared."""
    if processes == 1 or stage.name not in SHARED:
        return load_stage(stage)
    return partial(run_in_processes, load_stage(stage), processes)


def check_processes(count: int) -> None:
    """Refuse more processes than this machine has GPUs, or cores where it has no GPU.

    Raises:
        ConfigError: there are too many.
    """
    import torch

    gpus = torch.cuda.device_count()
    if count > (gpus or cores()):
        held = f"{gpus} GPUs (CUDA_VISIBLE_DEVICES= hides them)" if gpus else f"{cores()} cores"
        raise ConfigError(f"--processes {count}: this machine has {held}; give at most as many processes")


def run_in_processes(function: StageFunction, count: int, config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    """Call a stage's function, at the top level of a module, in several processes.

    Raises:
        RecsysError: one failed with it, or ended otherwise than by finishing.
    """
    store = run.work / "processes"
    store.unlink(missing_ok=True)  # of a killed run
    try:
        with _started(function, count, config, run, str(store)) as (processes, receivers):
            _follow(run.stage, processes, receivers, Replay(run, tracker))
    finally:
        store.unlink(missing_ok=True)


@contextmanager
def _started(
    function: StageFunction, count: int, config: RunConfig, run: StageRun, store: str
) -> Iterator[tuple[list[SpawnProcess], list[Connection]]]:
    """Processes and the events of each, within the block; afterwards all are ended."""
    named = cast(FunctionType, function)
    call = Call(named.__module__, named.__name__, config.model_dump_json())
    context = get_context("spawn")  # CUDA cannot be used in a forked process
    driver, alive = context.Pipe(duplex=False)
    processes: list[SpawnProcess] = []
    receivers: list[Connection] = []
    try:
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            place = Place(rank, count, store, sender, driver)
            process = context.Process(target=work, args=(place, call, run), daemon=True)
            process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        yield processes, receivers
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        alive.close()


def _follow(stage: str, processes: list[SpawnProcess], receivers: list[Connection], replay: Replay) -> None:
    """Repeat the processes' events here until all have ended."""
    running = dict(enumerate(processes))
    open_ends = list(receivers)
    while running or open_ends:
        ready = wait([*open_ends, *(process.sentinel for process in running.values())])
        for receiver in [end for end in open_ends if end in ready]:
            if not _replayed(receiver, replay):
                open_ends.remove(receiver)
        for rank in [rank for rank, process in running.items() if process.sentinel in ready]:
            running[rank].join()
            code = running.pop(rank).exitcode or 0
            _replay_rest(receivers[rank], replay)
            if code:
                raise _died(stage, rank, len(processes), code)


def _replay_rest(receiver: Connection, replay: Replay) -> None:
    """Repeat what a process logged before it ended, such as why."""
    unread = receiver.poll()
    while unread:
        unread = _replayed(receiver, replay) and receiver.poll()


def _replayed(receiver: Connection, replay: Replay) -> bool:
    """Repeat one event of a process, if there is one before the end of its messages."""
    try:
        event = receiver.recv()
    except (EOFError, OSError):  # the end, or a message that a kill has cut short
        return False
    replay(event)
    return True


def _died(stage: str, rank: int, count: int, code: int) -> ModelError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}, see the lines above"
    return ModelError(f"{stage}: process {rank + 1} of {count} {how}; run the same command to resume")
