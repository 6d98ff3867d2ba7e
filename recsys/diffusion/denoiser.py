"""The denoiser: residual MLP blocks whose norms are modulated by the time and the condition.

MAR (Li et al., arXiv 2406.11838, section 3.3): a small MLP with AdaLN is enough to denoise one token. What depends on
the condition alone, and that on condition and time, are methods of their own: a sampler calls them once a user, and
once a user and step, however many samples it draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FREQUENCIES = 256
_EPS = 1e-6


class Denoised(NamedTuple):
    """The network's output [..., D] and the last block's activations [..., w]."""

    output: Tensor
    hidden: Tensor


def normalised(x: Tensor) -> Tensor:
    """Layer norm over the last dimension, without weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=_EPS)


def block_layers(hidden_size: int) -> nn.Sequential:
    """The branch of one residual block."""
    return nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))


class Denoiser(nn.Module):
    """Noisy latents [..., D] at a timestep, under a condition [d_h] -> v, eps or x0 [..., D].

    Gates, shifts and the output start at zero and scales at one, whatever the condition: the first prediction is 0.
    """

    def __init__(self, condition_dim: int, latent_dim: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.norm = nn.RMSNorm(condition_dim, eps=_EPS)
        self.null = nn.Parameter(0.02 * torch.randn(condition_dim))
        self.project = nn.Linear(condition_dim, hidden_size)
        self.time = nn.Sequential(nn.Linear(_FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.enter = nn.Linear(latent_dim, hidden_size)
        self.blocks = nn.ModuleList(block_layers(hidden_size) for _ in range(num_layers))
        self.modulate = nn.Linear(hidden_size, (3 * num_layers + 2) * hidden_size)
        self.leave = nn.Linear(hidden_size, latent_dim)
        for module in (self.modulate, self.leave):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.modulate.bias.view(-1, hidden_size)[1::3] = 1  # the scales; see `forward`

    @property
    def latent_dim(self) -> int:
        return self.leave.out_features

    @property
    def condition_dim(self) -> int:
        return self.project.in_features

    def embed(self, conditions: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Conditions [B, d_h] as the blocks take them, [B, w]; rows where bool [B] `dropped` holds become null."""
        states = self.norm(conditions.to(self.null.dtype))
        if dropped is not None:
            states = torch.where(dropped[:, None], self.null.to(states.dtype), states)
        embedded: Tensor = self.project(states)
        return embedded

    def embed_null(self) -> Tensor:
        """The learned absence of a condition, [1, w]."""
        embedded: Tensor = self.project(self.null[None])
        return embedded

    def modulation(self, embedded: Tensor, timesteps: Tensor) -> Tensor:
        """Shifts, scales and gates of all blocks: [..., 3 num_layers + 2, w] of embedded [..., w], timesteps [...]."""
        state = F.silu(embedded + self._embed_time(timesteps))
        flat: Tensor = self.modulate(state)
        return flat.reshape(*flat.shape[:-1], -1, self.hidden_size)

    def forward(self, noisy: Tensor, modulation: Tensor) -> Denoised:
        """Denoise latents [..., D] under a modulation whose leading dimensions are theirs or broadcast to them."""
        x: Tensor = self.enter(noisy.to(self.enter.weight.dtype))
        parts = modulation.unbind(-2)
        for index, layers in enumerate(self.blocks):
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            x = torch.addcmul(x, gate, layers(torch.addcmul(shift, normalised(x), scale)))
        shift, scale = parts[-2:]
        return Denoised(self.leave(torch.addcmul(shift, normalised(x), scale)), x)

    def _embed_time(self, timesteps: Tensor) -> Tensor:
        half = _FREQUENCIES // 2
        rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=timesteps.device))
        angles = timesteps[..., None].float() * rates
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedded: Tensor = self.time(waves.to(self.null.dtype))
        return embedded
