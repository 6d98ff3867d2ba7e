"""The denoiser: residual MLP blocks whose norms are modulated by the timestep and the condition (AdaLN).

MAR (Li et al., arXiv 2406.11838, section 3.3): a small MLP with AdaLN is enough to denoise one token. Embedding a
condition and computing the modulation are separate methods: a sampler calls them once a user, and once a user and
step, for any number of samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NUM_FREQUENCIES = 256
_EPS = 1e-6


class DenoiserOutput(NamedTuple):
    """The predicted velocity [..., D] and the last block's activations [..., w]."""

    output: Tensor
    hidden: Tensor


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last dimension, without learned weights."""
    return F.layer_norm(x, x.shape[-1:], eps=_EPS)


def two_layers(input_size: int, hidden_size: int) -> nn.Sequential:
    """Linear, SiLU, linear: the branch of a residual block."""
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))


class Denoiser(nn.Module):
    """Noisy latents [..., D] at a timestep, under a condition [d_h] -> velocity [..., D].

    Gates, shifts and the output start at zero and scales at one, for any condition: the first prediction is 0.
    """

    def __init__(self, condition_dim: int, latent_dim: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.condition_norm = nn.RMSNorm(condition_dim, eps=_EPS)
        self.null_condition = nn.Parameter(0.02 * torch.randn(condition_dim))
        self.condition_projection = nn.Linear(condition_dim, hidden_size)
        self.time_mlp = two_layers(_NUM_FREQUENCIES, hidden_size)
        self.input_projection = nn.Linear(latent_dim, hidden_size)
        self.blocks = nn.ModuleList(two_layers(hidden_size, hidden_size) for _ in range(num_layers))
        self.modulation_projection = nn.Linear(hidden_size, (3 * num_layers + 2) * hidden_size)
        self.output_projection = nn.Linear(hidden_size, latent_dim)
        for module in (self.modulation_projection, self.output_projection):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.modulation_projection.bias.view(-1, hidden_size)[1::3] = 1  # the scales; see `forward`

    @property
    def latent_dim(self) -> int:
        return self.output_projection.out_features

    @property
    def condition_dim(self) -> int:
        return self.condition_projection.in_features

    def embed(self, conditions: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Embedded conditions [B, w] of [B, d_h]; rows where bool [B] `dropped` holds get the null condition."""
        states = self.condition_norm(conditions.to(self.null_condition.dtype))
        if dropped is not None:
            states = torch.where(dropped[:, None], self.null_condition.to(states.dtype), states)
        embedded: Tensor = self.condition_projection(states)
        return embedded

    def embed_null(self) -> Tensor:
        """The learned null condition, embedded, [1, w]."""
        embedded: Tensor = self.condition_projection(self.null_condition[None])
        return embedded

    def modulation(self, embedded: Tensor, timesteps: Tensor) -> Tensor:
        """Shifts, scales and gates of all blocks: [..., 3 num_layers + 2, w] of [..., w] and timesteps [...]."""
        state = F.silu(embedded + self._embed_time(timesteps))
        flat: Tensor = self.modulation_projection(state)
        return flat.reshape(*flat.shape[:-1], -1, self.hidden_size)

    def forward(self, noisy: Tensor, modulation: Tensor) -> DenoiserOutput:
        """Denoise latents [..., D]; the modulation's leading dimensions equal theirs or are broadcast to them."""
        x: Tensor = self.input_projection(noisy.to(self.input_projection.weight.dtype))
        chunks = modulation.unbind(-2)
        for index, branch in enumerate(self.blocks):
            shift, scale, gate = chunks[3 * index : 3 * index + 3]
            x = torch.addcmul(x, gate, branch(torch.addcmul(shift, layer_norm(x), scale)))
        shift, scale = chunks[-2:]
        return DenoiserOutput(self.output_projection(torch.addcmul(shift, layer_norm(x), scale)), x)

    def _embed_time(self, timesteps: Tensor) -> Tensor:
        """Sinusoidal embedding of timesteps [...], as in Transformers, through an MLP: [..., w]."""
        half = _NUM_FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=timesteps.device))
        angles = timesteps[..., None].float() * frequencies
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedded: Tensor = self.time_mlp(sinusoids.to(self.null_condition.dtype))
        return embedded
