"""A trained diffusion head, which samples item latents for conditions.

Writes and reads a folder of `preference.safetensors` (the averaged denoiser) and `preference.json` (its kind, version,
shape and configuration).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.sampling import sample
from recsys.diffusion.storage import load_module, save_module
from recsys.llm.training import bf16_is_native
from recsys.tables import FloatArray

KIND = "preference"


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def uses_bf16(config: DiffuseConfig, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as configured, or by default where the device supports it natively."""
    return config.precision == "bf16" or (config.precision == "auto" and bf16_is_native(device))


@dataclass(frozen=True, repr=False)
class PreferenceModel:
    """The averaged denoiser, in evaluation mode, and its sampling configuration."""

    denoiser: Denoiser
    config: DiffuseConfig

    def __repr__(self) -> str:
        dims = f"{self.denoiser.condition_dim} -> {self.denoiser.latent_dim}"
        return f"<PreferenceModel ({dims}, {self.config.num_layers} layers x {self.config.hidden_size})>"

    def sample(
        self, conditions: FloatArray, keys: Sequence[int], *, seed: int, num_samples: int | None = None
    ) -> FloatArray:
        """Latents [B, S, D] for conditions [B, d_h] and a key a user (`sampling.sample_key`); see `sampling.sample`.

        The same key, seed and condition give the same latents; `num_samples` defaults to the configuration's.
        """
        num_samples = num_samples or self.config.num_samples
        return sample(self._sampling_denoiser, conditions, keys, self.config, seed=seed, num_samples=num_samples)

    @cached_property
    def _sampling_denoiser(self) -> Denoiser:
        """The denoiser in the precision of sampling."""
        if not uses_bf16(self.config, self.denoiser.null_condition.device):
            return self.denoiser
        return copy.deepcopy(self.denoiser).to(torch.bfloat16)

    def save(self, folder: Path) -> None:
        """Write the two files into `folder`, which is created."""
        shape = {"condition_dim": self.denoiser.condition_dim, "latent_dim": self.denoiser.latent_dim}
        save_module(folder, KIND, self.denoiser, shape=shape, config=self.config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, onto the GPU if there is one.

        Raises:
            ArtifactError: a file is missing, damaged or of another version, or they do not match.
        """

        def build(shape: dict[str, int], config: DiffuseConfig) -> Denoiser:
            return Denoiser(**shape, hidden_size=config.hidden_size, num_layers=config.num_layers)

        denoiser, config = load_module(folder, KIND, build)
        return cls(denoiser.to(default_device()), config)
