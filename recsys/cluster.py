"""A connection to Ray: to the cluster that RAY_ADDRESS names, or to one of this machine that lasts as long as it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from recsys.errors import DependencyError

ADDRESS = "RAY_ADDRESS"
OBJECT_STORE = 100 * 2**20  # bytes; nothing large passes through Ray


def import_ray(module: str = "ray") -> Any:
    """A module of Ray, which is kept from telling its makers of its use.

    Raises:
        DependencyError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A task that asks for no GPU would be hidden from all of them; Ray says that this will be the default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return import_module(module)
    except ImportError as error:
        raise DependencyError("Ray is not installed; install recsys[ray], or do without it") from error


def is_lasting() -> bool:
    """Whether the cluster was there before and stays."""
    return bool(os.environ.get(ADDRESS))


@contextmanager
def ray_cluster(cpus: int) -> Iterator[Any]:
    """The module `ray`, connected: to the cluster in use, to RAY_ADDRESS, or to one of so many CPUs made here.

    Raises:
        DependencyError: Ray is not installed.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    new: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if is_lasting() else new))
    try:
        yield ray
    finally:
        ray.shutdown()
