"""Training state on disk: safetensors for tensors, JSON for the rest; written whole or not at all.

A checkpoint folder holds `state.safetensors` (with the JSON in its header, so that one rename publishes both). A loop
that draws all its randomness from `step_generator(seed, step)` or under `seeded(seed, step)` needs no generator state:
a resumed run repeats exactly what an uninterrupted one does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recsys.errors import ArtifactError

_FILE = "state.safetensors"


class Checkpoint(NamedTuple):
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


def save_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write a checkpoint; a kill at any instant leaves the previous one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_FILE}.tmp"
    contiguous = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"meta": json.dumps(meta)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(folder / _FILE)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where there is none yet.

    Raises:
        ArtifactError: the file is there and cannot be read.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["meta"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(f"checkpoint {path} cannot be read ({error}); delete it to train from the start") from error
    return Checkpoint(tensors, meta)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's per-parameter state as flat tensors named `optimizer.INDEX.KEY`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": torch.as_tensor(value)
        for index, entries in state.items()
        for key, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; parameter groups keep their present settings."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator that depends on the seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Run a step (dropout, sampling) under its own global generator state and put the caller's back after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + step)
        yield
