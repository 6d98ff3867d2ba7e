"""The losses of the diffusion head: the error of its prediction, and the dispersive loss of its activations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.schedule import Schedule

MIN_ROWS = 32  # too few rows estimate the spread of a batch badly


class Losses(NamedTuple):
    """Scalars: the main loss of a head (squared error for the diffusion head) and the dispersive loss."""

    diffusion: Tensor
    dispersive: Tensor

    def total(self, dispersive_weight: float) -> Tensor:
        """The weighted sum to minimise."""
        return self.diffusion + dispersive_weight * self.dispersive


def mean_square(predicted: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
    """The mean squared error of [B, ...], that of each row times its weight [B]."""
    if weights is None:
        return F.mse_loss(predicted, wanted)
    errors = F.mse_loss(predicted, wanted, reduction="none")
    return (errors * weights.reshape(-1, *[1] * (errors.ndim - 1))).mean()


def dispersive_loss(hidden: Tensor, temperature: float) -> Tensor:
    """log mean_ij exp(-||H_i - H_j||^2 / (w tau)) of activations [n, w]; zero for fewer than `MIN_ROWS` rows.

    Wang & He (arXiv 2506.09027, section 3.2). It lies in [-log n, 0] and falls as rows move apart, so its weight in
    a loss is positive.
    """
    rows, width = hidden.shape
    if rows < MIN_ROWS:
        return hidden.new_zeros((), dtype=torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        centred = hidden.float() - hidden.float().mean(dim=0)  # same distances, less cancellation
        squares = centred.square().sum(dim=1)
        distances = (squares[:, None] + squares - 2 * centred @ centred.T).clamp(min=0)
        distances = distances.masked_fill(torch.eye(rows, dtype=torch.bool, device=hidden.device), 0)  # exactly 0
        return torch.logsumexp(-distances.flatten() / (width * temperature), dim=0) - 2 * math.log(rows)


class PreferenceLoss(nn.Module):
    """The losses of a denoiser that learns to sample the next item's latent.

    Holds the latents [N, D] as a buffer that is not saved. Randomness (timesteps, noise, dropped conditions) comes
    from torch's global generator; wrap a step in `recsys.training.seeding.seeded`.
    """

    latents: Tensor

    def __init__(self, denoiser: Denoiser, latents: Tensor, config: DiffuseConfig) -> None:
        super().__init__()
        self.denoiser, self.config = denoiser, config
        self.schedule = Schedule(config.timesteps)
        self.register_buffer("latents", latents, persistent=False)

    def forward(self, conditions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Losses:
        """Losses of conditions [B, d_h] whose next items are targets [B]; `weights` [B] are factors of the errors."""
        config = self.config
        rate = config.condition_dropout if self.training else 0
        dropped = torch.rand(len(targets), device=targets.device) < rate
        timesteps = self._timesteps(len(targets), targets.device)
        x0 = self.latents[targets][:, None]
        eps = torch.randn(*timesteps.shape, x0.shape[-1], device=targets.device)
        noisy = self.schedule.add_noise(x0, eps, timesteps)
        modulation = self.denoiser.modulation(self.denoiser.embed(conditions, dropped)[:, None], timesteps)
        predicted = self.denoiser(noisy, modulation)
        error = mean_square(predicted.output.float(), self.schedule.velocity(x0, eps, timesteps), weights)
        if not config.dispersive_weight:
            return Losses(error, error.new_zeros(()))
        return Losses(error, dispersive_loss(predicted.hidden[:, 0][~dropped], config.dispersive_temperature))

    def _timesteps(self, rows: int, device: torch.device) -> Tensor:
        """Stratified timesteps [rows, R]: those of a row are evenly spaced from a uniform random start."""
        count, timesteps = self.config.timesteps_per_row, self.config.timesteps
        positions = torch.rand(rows, 1, device=device) + torch.arange(count, device=device) / count
        return (positions % 1 * timesteps).long().clamp(max=timesteps - 1)
