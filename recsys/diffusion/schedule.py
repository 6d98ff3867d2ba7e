"""The forward process: a cosine noise schedule, and the velocity that the denoiser predicts.

With signal a and noise s, y_t = a x0 + s eps and v = a eps - s x0 (Salimans & Ho, arXiv 2202.00512, section 4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_OFFSET = 0.008
_MAX_BETA = 0.999


class Schedule(nn.Module):
    """`signal` and `noise` [T], the square roots of alpha-bar and of 1 - alpha-bar.

    Cosine schedule of Nichol & Dhariwal (arXiv 2102.09672, equation 17), betas at most .999: the last signal is
    small and not zero.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        angles = (torch.arange(timesteps + 1, dtype=torch.float64) / timesteps + _OFFSET) / (1 + _OFFSET)
        curve = torch.cos(angles * math.pi / 2).square()
        alpha_bar = (1 - (1 - curve[1:] / curve[:-1]).clamp(max=_MAX_BETA)).cumprod(dim=0)
        self.register_buffer("signal", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - alpha_bar).sqrt().float(), persistent=False)

    def __len__(self) -> int:
        return len(self.signal)

    def add_noise(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """y_t [..., D] of clean latents and noise [..., D] at timesteps [...] in 0..T-1."""
        signal, noise = self._at(timesteps)
        return signal * x0 + noise * eps

    def velocity(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """v [..., D], the output of a perfect denoiser."""
        signal, noise = self._at(timesteps)
        return signal * eps - noise * x0

    def _at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self.signal[timesteps].unsqueeze(-1), self.noise[timesteps].unsqueeze(-1)
