"""A trained module on disk as `STEM.safetensors` and `STEM.json`: kind, version, shape and configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.files import read_json, write_json
from recsys.training.checkpoints import prefixed, unprefixed

_VERSION = 1

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=Config)


class Kind(NamedTuple, Generic[C]):
    """What a saved module is, and the stage to run again where it cannot be read."""

    name: str
    config: type[C]
    stage: str
    unsaved: frozenset[str] = frozenset()  # fields of the configuration that do not concern the module
    stem: str | None = None  # of the two files' names, where it is not the kind's

    def path(self, folder: Path, suffix: str) -> Path:
        return folder / f"{self.stem or self.name}{suffix}"


class Saved(NamedTuple, Generic[C]):
    """What surrounds a module: its configuration, the sizes it was built with, and further tensors."""

    config: C
    shape: Mapping[str, int] = {}
    tensors: Mapping[str, Tensor] = {}


def save_module(folder: Path, kind: Kind[C], module: nn.Module, saved: Saved[C]) -> None:
    """Write the two files into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = prefixed("model", module.state_dict()) | dict(saved.tensors)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, kind.path(folder, ".safetensors"))
    config = saved.config.model_dump(mode="json", exclude=set(kind.unsaved))
    described = {"kind": kind.name, "version": _VERSION, "shape": dict(saved.shape), "config": config}
    write_json(kind.path(folder, ".json"), described)


def load_module(folder: Path, kind: Kind[C], build: Callable[[Saved[C]], M]) -> tuple[M, Saved[C]]:
    """The module that `build` returns, with the saved weights and in evaluation mode, and what was saved with it.

    Raises:
        ArtifactError: a file is missing, damaged or of another kind or version, or the two do not fit.
    """
    path, weights = kind.path(folder, ".json"), kind.path(folder, ".safetensors")
    described = read_json(path)
    if (described.get("kind"), described.get("version")) != (kind.name, _VERSION):
        raise ArtifactError(f"{path} is not a {kind.name} of version {_VERSION}; run `{kind.stage}` again")
    try:
        config, shape = kind.config.model_validate(described["config"]), described["shape"]
    except (ValueError, KeyError) as error:
        raise _unreadable(path, kind, error) from error
    try:
        # Copied, because products of tensors that are not aligned in memory, as in the file, are rounded differently.
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
        saved = Saved(config, shape, rest)
        module = build(saved)
        module.load_state_dict(unprefixed("model", tensors), assign=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _unreadable(weights, kind, error) from error
    return module.eval(), saved


def _unreadable(path: Path, kind: Kind[C], error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} cannot be read ({' '.join(str(error).split())}); run `{kind.stage}` again")
