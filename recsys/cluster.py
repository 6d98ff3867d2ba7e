"""A connection to Ray: to the cluster at RAY_ADDRESS, or to a local one that is stopped afterwards."""

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
    """Import a module of Ray, with usage statistics disabled.

    Raises:
        DependencyError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tasks without num_gpus keep CUDA_VISIBLE_DEVICES; Ray announces this as its future default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return import_module(module)
    except ImportError as error:
        raise DependencyError("Ray is not installed; install recsys[ray], or use another executor") from error


def is_lasting() -> bool:
    """Whether the cluster outlives this process."""
    return bool(os.environ.get(ADDRESS))


@contextmanager
def ray_cluster(cpus: int) -> Iterator[Any]:
    """The module `ray`, connected: to the current cluster, to RAY_ADDRESS, or to a new local one of so many CPUs.

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
