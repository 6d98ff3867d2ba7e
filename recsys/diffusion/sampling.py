"""Drawing latents: DDIM and ancestral sampling, with noise that belongs to a user, not to a batch.

Takes conditions and one key a user; the same key, seed and sample index give the same latent in whatever batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.schedule import Schedule, recovery
from recsys.errors import DataError
from recsys.tables import FloatArray

_LEAST_SIGNAL = 0.02  # where eps-prediction starts: x0 = (y - s eps) / a multiplies the network's error by 1 / a
_GROUP = {"cpu": 128, "cuda": 4096}  # users whose modulation is made at once
_ROWS = {
    "cpu": 1024,
    "cuda": 131_072,
}  # samples that pass the blocks at once; an activation of 1 MiB stays in the cache


class Step(NamedTuple):
    """One step back: y' = keep y + push output + noise z."""

    timestep: int
    keep: float
    push: float
    noise: float


def sample_key(text: str) -> int:
    """A user's key, an integer of 64 bits, from any text that names the user or the request."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def keyed_noise(keys: Sequence[int], step: int, *, seed: int, num_samples: int, width: int) -> FloatArray:
    """Standard normal noise [B, S, D], a function of seed, key, sample index and step alone.

    A row is the start of one Philox stream, so fewer samples are a prefix of more.
    """
    noise = np.empty((len(keys), num_samples, width), dtype=np.float32)
    for row, key in zip(noise, keys, strict=True):
        words = np.array([seed % 2**64, key % 2**64], dtype=np.uint64)
        stream = np.random.Philox(key=words, counter=np.array([0, 0, 0, step], dtype=np.uint64))
        np.random.Generator(stream).standard_normal(out=row, dtype=np.float32)
    return noise


def sampling_steps(schedule: Schedule, config: DiffuseConfig) -> list[Step]:
    """The steps from noise to a latent: DDIM (Song et al., arXiv 2010.02502, equation 12) with eta 0, ancestral eta 1.

    Timesteps are evenly spaced from the last; eps-prediction starts where the signal has risen to .02.
    """
    signal, noise = [*schedule.signal.tolist(), 1.0], [*schedule.noise.tolist(), 0.0]  # index -1: no noise is left
    last = len(schedule) - 1
    if config.prediction == "eps":
        last = max(t for t in range(len(schedule)) if signal[t] >= _LEAST_SIGNAL or t == 0)
    grid = np.linspace(last, -1, min(config.sampling_steps, last + 1) + 1).round().astype(int).tolist()
    steps = []
    for now, then in pairwise(grid):
        a, s, a_then, s_then = signal[now], noise[now], signal[then], noise[then]
        fresh = 0.0 if config.sampler == "ddim" else s_then / s * (1 - (a / a_then) ** 2) ** 0.5
        rest = max(s_then**2 - fresh**2, 0.0) ** 0.5
        terms = recovery(config.prediction, a, s)
        keep, push = a_then * terms.x0_y + rest * terms.eps_y, a_then * terms.x0_o + rest * terms.eps_o
        steps.append(Step(now, float(keep), float(push), fresh))
    return steps


def solve(
    predict: Callable[[Tensor, int], Tensor], start: Tensor, steps: Sequence[Step], draw: Callable[[int], Tensor]
) -> Tensor:
    """Latents [..., D] from noise `start` [..., D].

    Args:
        predict: the network's output for latents at a timestep.
        draw: fresh noise [..., D] of a step, counted from 1; asked only where a step adds noise.
    """
    y = start
    for index, step in enumerate(steps, start=1):
        y = (step.keep * y).add_(predict(y, step.timestep), alpha=step.push)
        if step.noise:
            y.add_(draw(index), alpha=step.noise)
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

    It runs in the denoiser's precision and on its device. In float32 a batch equals its rows alone within 1e-5.

    Raises:
        DataError: conditions have another width than the denoiser was made for, or there is not one key a row.
    """
    if conditions.ndim != 2 or conditions.shape[1] != denoiser.condition_dim or len(keys) != len(conditions):
        raise DataError(
            f"sampling needs conditions [B, {denoiser.condition_dim}] and a key a row; "
            f"got {conditions.shape} and {len(keys)} keys"
        )
    steps = sampling_steps(Schedule(config.timesteps), config)
    noise = partial(keyed_noise, seed=seed, num_samples=num_samples, width=denoiser.latent_dim)
    latents = np.empty((len(conditions), num_samples, denoiser.latent_dim), dtype=np.float32)
    for group in _slices(len(conditions), _GROUP[denoiser.null.device.type]):
        predict = _Predict(denoiser, conditions[group], config.guidance_scale)
        draw = partial(_draw, noise, keys[group], device=denoiser.null.device)
        latents[group] = solve(predict, draw(0), steps, draw).cpu().numpy()
    return latents


def _draw(
    noise: Callable[[Sequence[int], int], FloatArray], keys: Sequence[int], step: int, *, device: torch.device
) -> Tensor:
    return torch.from_numpy(noise(keys, step)).to(device)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, length, size))


class _Predict:
    """The denoiser's output for a group of users, whose embeddings are made once."""

    def __init__(self, denoiser: Denoiser, conditions: FloatArray, guidance_scale: float) -> None:
        self.denoiser, self.guidance_scale = denoiser, guidance_scale
        self.embedded = denoiser.embed(torch.from_numpy(conditions).to(denoiser.null.device))[:, None]

    def __call__(self, y: Tensor, timestep: int) -> Tensor:
        output = self._run(y, self.embedded, timestep)
        if self.guidance_scale == 1:
            return output
        null = self._run(y, self.denoiser.embed_null()[None], timestep)
        return null.lerp_(output, self.guidance_scale)

    def _run(self, y: Tensor, embedded: Tensor, timestep: int) -> Tensor:
        """Outputs float32 [G, S, D]; the modulation [G, 1, ...] is made once, and broadcast over a user's samples."""
        when = torch.full((1, 1), timestep, device=y.device)
        modulation = self.denoiser.modulation(embedded, when).expand(len(y), -1, -1, -1)
        output = torch.empty_like(y)
        for part in _slices(len(y), max(1, _ROWS[y.device.type] // y.shape[1])):
            output[part] = self.denoiser(y[part], modulation[part]).output
        return output
