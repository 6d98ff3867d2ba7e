"""A trained module on disk as `NAME.safetensors` and `NAME.json`: kind, version, shape and configuration."""

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

    name: str  # of the two files
    config: type[C]
    stage: str
    unsaved: frozenset[str] = frozenset()  # fields of the configuration that do not concern the module


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
    save_file(contiguous, folder / f"{kind.name}.safetensors")
    config = saved.config.model_dump(mode="json", exclude=set(kind.unsaved))
    described = {"kind": kind.name, "version": _VERSION, "shape": dict(saved.shape), "config": config}
    write_json(folder / f"{kind.name}.json", described)


def load_module(folder: Path, kind: Kind[C], build: Callable[[Saved[C]], M]) -> tuple[M, Saved[C]]:
    """The module that `build` returns, with the saved weights and in evaluation mode, and what was saved with it.

    Raises:
        ArtifactError: a file is missing, damaged or of another kind or version, or the two do not fit.
    """
    path = folder / f"{kind.name}.json"
    described = read_json(path)
    if (described.get("kind"), described.get("version")) != (kind.name, _VERSION):
        raise ArtifactError(f"{path} is not of kind {kind.name}, version {_VERSION}; run `{kind.stage}` again")
    try:
        # Copied, because products of tensors that are not aligned in memory, as in the file, are rounded differently.
        tensors = {name: tensor.clone() for name, tensor in load_file(path.with_suffix(".safetensors")).items()}
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
        saved = Saved(kind.config.model_validate(described["config"]), described["shape"], rest)
        module = build(saved)
        module.load_state_dict(unprefixed("model", tensors), assign=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())
        raise ArtifactError(f"{kind.name} in {folder} cannot be read ({line}); run `{kind.stage}` again") from error
    return module.eval(), saved
