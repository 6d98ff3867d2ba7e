"""Draws item latents by DDIM, with noise that depends on the user and not on the batch.

Takes conditions and one key a user; the same key, seed and sample index give the same latent in any batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.schedule import Schedule
from recsys.errors import DataError
from recsys.tables import FloatArray, slices

_USERS_PER_BATCH = {"cpu": 128, "cuda": 4096}  # whose modulation is computed at once
_ROWS_PER_PASS = {"cpu": 1024, "cuda": 131_072}  # samples a forward pass; on a CPU 1 MiB of activations stays in cache


class Step(NamedTuple):
    """One step of the sampler: y' = scale y + output_scale output."""

    timestep: int
    scale: float
    output_scale: float


def sample_key(text: str) -> int:
    """A user's key, an integer of 64 bits, from any text that names the user or the request."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def keyed_noise(keys: Sequence[int], *, seed: int, num_samples: int, dim: int) -> FloatArray:
    """Standard normal noise [B, S, D], a function of seed, key and sample index alone.

    A row is the start of one Philox stream, so fewer samples are a prefix of more.
    """
    noise = np.empty((len(keys), num_samples, dim), dtype=np.float32)
    for row, key in zip(noise, keys, strict=True):
        stream = np.random.Philox(key=np.array([seed % 2**64, key % 2**64], dtype=np.uint64))
        np.random.Generator(stream).standard_normal(out=row, dtype=np.float32)
    return noise


def ddim_steps(schedule: Schedule, num_steps: int) -> list[Step]:
    """The steps from noise to a latent (DDIM; Song et al., arXiv 2010.02502, equation 12, eta 0) of a v-prediction.

    Timesteps are evenly spaced, from the last one to the noiseless latent. With signal a and noise s, x0 = a y - s v
    and eps = s y + a v are mixed again at the signal and noise of the next timestep.
    """
    signal, noise = [*schedule.signal.tolist(), 1.0], [*schedule.noise.tolist(), 0.0]  # index -1: no noise is left
    steps = []
    for now, then in pairwise(np.linspace(len(schedule) - 1, -1, num_steps + 1).round().astype(int).tolist()):
        a, s, next_a, next_s = signal[now], noise[now], signal[then], noise[then]
        steps.append(Step(now, next_a * a + next_s * s, next_s * a - next_a * s))
    return steps


def solve(predict: Callable[[Tensor, int], Tensor], noise: Tensor, steps: Sequence[Step]) -> Tensor:
    """Latents [..., D] from noise [..., D]; `predict` gives the denoiser's output for latents at a timestep."""
    y = noise
    for step in steps:
        y = (step.scale * y).add_(predict(y, step.timestep), alpha=step.output_scale)
    return y


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    conditions: FloatArray,
    keys: Sequence[int],
    config: DiffuseConfig,
    *,
    seed: int,
    num_samples: int,
) -> FloatArray:
    """Latents [B, S, D] for conditions [B, d_h]; `keys` holds one integer a user, as `sample_key` gives.

    Runs in the denoiser's precision and on its device. In float32 a batch equals its rows alone within 1e-5.

    Raises:
        DataError: conditions have another width than the denoiser was built for, or there is not one key a row.
    """
    if conditions.ndim != 2 or conditions.shape[1] != denoiser.condition_dim or len(keys) != len(conditions):
        raise DataError(
            f"sampling needs conditions [B, {denoiser.condition_dim}] and a key a row; "
            f"got {conditions.shape} and {len(keys)} keys"
        )
    device = denoiser.null_condition.device
    steps = ddim_steps(Schedule(config.timesteps), config.sampling_steps)
    latents = np.empty((len(conditions), num_samples, denoiser.latent_dim), dtype=np.float32)
    for users in slices(len(conditions), _USERS_PER_BATCH[device.type]):
        predict = _GuidedDenoiser(denoiser, torch.from_numpy(conditions[users]).to(device), config.guidance_scale)
        noise = keyed_noise(keys[users], seed=seed, num_samples=num_samples, dim=denoiser.latent_dim)
        latents[users] = solve(predict, torch.from_numpy(noise).to(device), steps).cpu().numpy()
    return latents


class _GuidedDenoiser:
    """The denoiser for a batch of users, with classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

    def __init__(self, denoiser: Denoiser, conditions: Tensor, guidance_scale: float) -> None:
        self._denoiser, self._guidance_scale = denoiser, guidance_scale
        self._embedded = denoiser.embed(conditions)[:, None]

    def __call__(self, y: Tensor, timestep: int) -> Tensor:
        output = self._run(y, self._embedded, timestep)
        if self._guidance_scale == 1:
            return output
        unconditional = self._run(y, self._denoiser.embed_null()[None], timestep)
        return unconditional.lerp_(output, self._guidance_scale)

    def _run(self, y: Tensor, embedded: Tensor, timestep: int) -> Tensor:
        """Outputs float32 [B, S, D]; the modulation [B, 1, ...] is computed once and broadcast over the samples."""
        timesteps = torch.full((1, 1), timestep, device=y.device)
        modulation = self._denoiser.modulation(embedded, timesteps).expand(len(y), -1, -1, -1)
        output = torch.empty_like(y)
        for users in slices(len(y), max(1, _ROWS_PER_PASS[y.device.type] // y.shape[1])):
            output[users] = self._denoiser(y[users], modulation[users]).output
        return output
