"""Shared by all benchmarks: interleaved timing, so that load on the machine affects all contenders, and JSON lines.

Models run on a GPU where there is one; CUDA_VISIBLE_DEVICES= hides it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each contender over `rounds` turns, after a warm-up turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            finish()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def finish() -> None:
    """Wait for pending work on the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name() -> str:
    """The device that models run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def emit(benchmark: str, measurement: str, **values: float | int | str) -> None:
    """Print one measurement as one JSON line."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"benchmark": benchmark, "measurement": measurement, **rounded}), flush=True)
