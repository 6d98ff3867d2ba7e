"""Randomness as a function of a seed and a step, so that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator that depends on the seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Run a step (initialization, dropout, noise) on its own global generator state; the caller's is restored."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + step)
        yield
