"""A module on disk as `NAME.safetensors` and `NAME.json`: kind, version, shape and configuration beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from recsys.diffusion.config import DiffuseConfig
from recsys.errors import ArtifactError
from recsys.files import read_json, write_json

_VERSION = 1

M = TypeVar("M", bound=nn.Module)


def save_module(folder: Path, kind: str, module: nn.Module, *, shape: dict[str, int], config: DiffuseConfig) -> None:
    """Write `KIND.safetensors` and `KIND.json` into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / f"{kind}.safetensors")
    facts = {"kind": kind, "version": _VERSION, "shape": shape, "config": config.model_dump(mode="json")}
    write_json(folder / f"{kind}.json", facts)


def load_module(
    folder: Path, kind: str, build: Callable[[dict[str, int], DiffuseConfig], M]
) -> tuple[M, DiffuseConfig]:
    """The module that `build` makes from shape and configuration, with the saved weights, in evaluation mode.

    Raises:
        ArtifactError: a file is missing, damaged or of another kind or version, or the two do not fit.
    """
    path = folder / f"{kind}.json"
    facts = read_json(path)
    if (facts.get("kind"), facts.get("version")) != (kind, _VERSION):
        raise ArtifactError(f"{path} is not a {kind} of version {_VERSION}; run `diffuse` again")
    try:
        config = DiffuseConfig.model_validate(facts["config"])
        module = build(facts["shape"], config)
        module.load_state_dict(load_file(path.with_suffix(".safetensors")))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"the {kind} head in {folder} cannot be read ({error}); run `diffuse` again") from error
    return module.eval(), config
