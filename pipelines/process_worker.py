"""One of several processes that run a stage together; see `pipelines.processes`.

Nothing heavy is imported here, so that a process watches the driver, and has its number of threads, before torch loads.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from multiprocessing.connection import Connection
from typing import NamedTuple

from pipelines.executors import THREADS, exit_with_driver, threads
from pipelines.process_events import Sender, forwarded_logs
from recsys.artifacts import RunDirectory, StageRun
from recsys.errors import RecsysError
from recsys.tracking import NullTracker

SECONDS = 10.0  # that a process has to end


class Place(NamedTuple):
    """One process among those of a stage, and how it reaches the driver."""

    rank: int
    processes: int
    store: str  # a file by which the processes find each other
    events: Connection
    driver: Connection


class Call(NamedTuple):
    """A stage's function by name, and its configuration as JSON: what is imported for them is imported late."""

    module: str
    function: str
    config: str


def work(place: Place, call: Call, run: StageRun) -> None:
    """Call a stage's function, as one of several processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_driver(place.driver)
    os.environ |= _environment(place)
    from pipelines.config import RunConfig

    function, config = getattr(import_module(call.module), call.function), RunConfig.model_validate_json(call.config)
    sender, first = Sender(place.events), place.rank == 0
    directory = RunDirectory(run.directory.path, run.directory.folders)
    own = StageRun(run.stage, run.out, run.work, directory, run.reads, run.sibling)
    try:
        with forwarded_logs(sender if first else None):
            _connect(place)
            function(config, own, sender if first else NullTracker())
    except (RecsysError, OSError) as error:
        sender.error(error)
        place.driver.poll(SECONDS)  # the driver ends all of them; until then the others must not miss this one
        sys.exit(1)
    if first:
        sender.notes(own.notes)
    _disconnect()


def _environment(place: Place) -> dict[str, str]:
    numbers = {"RANK": place.rank, "LOCAL_RANK": place.rank, "WORLD_SIZE": place.processes}
    numbers["LOCAL_WORLD_SIZE"] = place.processes
    return {name: str(value) for name, value in numbers.items()} | {THREADS: threads(place.processes)}


def _connect(place: Place) -> None:
    """Let the processes compute together: by NCCL on GPUs, else by gloo."""
    import torch
    from torch import distributed

    from recsys.training.processes import TIMEOUT

    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(place.rank)
    distributed.init_process_group(
        "nccl" if gpus else "gloo",
        store=distributed.FileStore(str(place.store), place.processes),  # type: ignore[attr-defined]
        rank=place.rank,
        world_size=place.processes,
        timeout=TIMEOUT,
    )


def _disconnect() -> None:
    from torch import distributed

    distributed.destroy_process_group()
