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
from recsys.tables import FloatArray
from recsys.training.devices import default_device, uses_bf16
from recsys.training.modules import Kind, Saved, load_module, save_module

KIND = Kind("preference", DiffuseConfig, "diffuse")


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
        if not uses_bf16(self.config.precision, self.denoiser.null_condition.device):
            return self.denoiser
        return copy.deepcopy(self.denoiser).to(torch.bfloat16)

    def save(self, folder: Path) -> None:
        """Write the two files into `folder`, which is created."""
        shape = {"condition_dim": self.denoiser.condition_dim, "latent_dim": self.denoiser.latent_dim}
        save_module(folder, KIND, self.denoiser, Saved(self.config, shape))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, onto the GPU if there is one.

        Raises:
            ArtifactError: a file is missing, damaged or of another version, or they do not match.
        """

        def build(saved: Saved[DiffuseConfig]) -> Denoiser:
            return Denoiser(**saved.shape, hidden_size=saved.config.hidden_size, num_layers=saved.config.num_layers)

        denoiser, saved = load_module(folder, KIND, build)
        return cls(denoiser.to(default_device()), saved.config)
