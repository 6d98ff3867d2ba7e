"""Training state on disk: one safetensors file, published by a rename, named by the fingerprint of its training.

The fingerprint covers the seed, the configuration, the data and the version of the code, so a checkpoint is continued
only by the training that wrote it. Another training in the same folder starts anew, logs why, and leaves the file
where it is. Trainings draw all randomness from `recsys.training.seeding`, a function of (seed, step): a checkpoint
needs no generator state.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.files import text_sha256

CODE_VERSION = 2  # raised whenever the same settings and data train to other weights

logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]
    fingerprint: dict[str, Any]


class Fingerprint(NamedTuple):
    """What decides the result of a training."""

    name: str
    seed: int
    config: Mapping[str, Any]
    data: str  # a digest of everything that is trained on
    code: str = f"{CODE_VERSION}, torch {torch.__version__}"

    @classmethod
    def of(cls, name: str, seed: int, config: Config, *data: Any) -> Fingerprint:
        """Of a configuration and data: arrays, tensors (shape, type and bytes count), or anything with a `repr`."""
        return cls(name, seed, config.model_dump(mode="json"), digest(*data))

    @property
    def file_name(self) -> str:
        return f"{text_sha256(json.dumps(self, sort_keys=True))[:16]}.safetensors"

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What another training's fingerprint differs in, as `field: its value, not this one's`."""
        mine, theirs = ({**part["config"], **part, "config": None} for part in (self._asdict(), dict(other)))
        return [
            key if key == "data" else f"{key} is {theirs.get(key)}, not {mine.get(key)}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key)
        ]


def digest(*data: Any) -> str:
    """SHA-256 of arrays and tensors, by shape, type and bytes, and of other objects, by `repr`."""
    total = hashlib.sha256()
    for part in data:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            total.update(f"{part.shape} {part.dtype} ".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(repr(part).encode())
    return total.hexdigest()


def save_checkpoint(
    folder: Path, fingerprint: Fingerprint, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint; a kill at any instant leaves the previous one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / fingerprint.file_name
    temporary = path.with_suffix(".tmp")
    contiguous = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    described = {"meta": json.dumps(dict(meta)), "fingerprint": json.dumps(fingerprint._asdict())}
    save_file(contiguous, temporary, metadata=described)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(folder: Path, fingerprint: Fingerprint) -> Checkpoint | None:
    """The checkpoint of the training `fingerprint` in `folder`, or None where there is none yet.

    Logs a warning where `folder` holds only checkpoints of other trainings.

    Raises:
        ArtifactError: the file is there and cannot be read.
    """
    path = folder / fingerprint.file_name
    if path.exists():
        return _read(path)
    for other in sorted(folder.glob("*.safetensors")):
        logger.warning(
            "%s: training starts anew; the checkpoint %s is of another training (%s) and is kept",
            *(fingerprint.name, other, "; ".join(fingerprint.differences(_read(other).fingerprint))),
        )
    return None


def _read(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            meta, fingerprint = (json.loads(file.metadata()[key]) for key in ("meta", "fingerprint"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(f"checkpoint {path} cannot be read ({error}); delete it to train from the start") from error
    return Checkpoint(tensors, meta, fingerprint)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's per-parameter state as flat tensors named `optimizer.INDEX.KEY`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": torch.as_tensor(value)
        for index, entries in state.items()
        for key, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore what `optimizer_tensors` returned; parameter groups keep their present settings."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
