"""The forward process: a cosine noise schedule, and the change between what a denoiser can predict.

With signal a and noise s, y_t = a y_0 + s eps and v = a eps - s y_0 (Salimans & Ho, arXiv 2202.00512, section 4).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from recsys.diffusion.config import Prediction

_OFFSET = 0.008
_MAX_BETA = 0.999

Number = TypeVar("Number", float, Tensor)


class Clean(NamedTuple):
    """What a noisy latent is made of, [..., D] each."""

    x0: Tensor
    eps: Tensor


class Recovery(NamedTuple):
    """x0 and eps as sums of the noisy latent y and the network's output o: x0 = x0_y y + x0_o o, eps likewise."""

    x0_y: Tensor | float
    x0_o: Tensor | float
    eps_y: Tensor | float
    eps_o: Tensor | float


def recovery(prediction: Prediction, signal: Number, noise: Number) -> Recovery:
    """How x0 and eps follow from a noisy latent and an output of the given kind, at one signal and noise."""
    if prediction == "v":
        return Recovery(signal, -noise, noise, signal)
    if prediction == "eps":
        return Recovery(1 / signal, -noise / signal, 0.0, 1.0)
    return Recovery(0.0, 1.0, 1 / noise, -signal / noise)


class Schedule(nn.Module):
    """`signal` and `noise` [T], the square roots of alpha-bar and of 1 - alpha-bar.

    Cosine schedule of Nichol & Dhariwal (arXiv 2102.09672, equation 17), betas at most .999: the last signal is
    small and not zero, so every conversion is finite.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        angles = (torch.arange(timesteps + 1, dtype=torch.float64) / timesteps + _OFFSET) / (1 + _OFFSET)
        curve = torch.cos(angles * math.pi / 2).square()
        kept = (1 - (1 - curve[1:] / curve[:-1]).clamp(max=_MAX_BETA)).cumprod(dim=0)
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - kept).sqrt().float(), persistent=False)

    def __len__(self) -> int:
        return len(self.signal)

    def noisy(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """y_t [..., D] of clean latents and noise [..., D] at timesteps [...] in 0..T-1 (`q_sample`)."""
        signal, noise = self._at(timesteps)
        return signal * x0 + noise * eps

    def output(self, prediction: Prediction, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network of the given kind says, [..., D]."""
        if prediction == "v":
            signal, noise = self._at(timesteps)
            return signal * eps - noise * x0
        return (eps if prediction == "eps" else x0).expand(*timesteps.shape, -1)

    def clean(self, prediction: Prediction, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Clean:
        """x0 and eps [..., D] from a network's output and the noisy latents it saw; nothing is clamped."""
        terms = recovery(prediction, *self._at(timesteps))
        return Clean(terms.x0_y * noisy + terms.x0_o * output, terms.eps_y * noisy + terms.eps_o * output)

    def _at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self.signal[timesteps].unsqueeze(-1), self.noise[timesteps].unsqueeze(-1)
