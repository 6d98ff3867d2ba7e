"""What the diffusion head minimises: the error of its prediction, and how near its activations lie to each other."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.schedule import Schedule

MIN_ROWS = 32  # fewer rows say too little about how a batch is spread


class Losses(NamedTuple):
    """Scalars: the main loss of a head (the diffusion head's: squared error) and the dispersive loss."""

    diffusion: Tensor
    dispersive: Tensor

    def total(self, dispersive_weight: float) -> Tensor:
        """The weighted sum that is minimised."""
        return self.diffusion + dispersive_weight * self.dispersive


def dispersive_loss(hidden: Tensor, temperature: float) -> Tensor:
    """log mean_ij exp(-||H_i - H_j||^2 / (w tau)) of activations [n, w]; zero for fewer than `MIN_ROWS` rows.

    Wang & He (arXiv 2506.09027, section 3.2). It lies in [-log n, 0] and falls as rows move apart: added to a loss,
    with a positive sign, it disperses.
    """
    rows, width = hidden.shape
    if rows < MIN_ROWS:
        return hidden.new_zeros((), dtype=torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        centred = hidden.float() - hidden.float().mean(dim=0)  # distances stay; cancellation shrinks
        squares = centred.square().sum(dim=1)
        distances = (squares[:, None] + squares - 2 * centred @ centred.T).clamp(min=0)
        distances = distances.masked_fill(torch.eye(rows, dtype=torch.bool, device=hidden.device), 0)  # not by rounding
        return torch.logsumexp(-distances.flatten() / (width * temperature), dim=0) - 2 * math.log(rows)


class PreferenceLoss(nn.Module):
    """The losses of a denoiser that learns to draw the next item's latent.

    Holds the latents [N, D] as a buffer that is not saved. Randomness (timesteps, noise, dropped conditions) comes
    from torch's global generator; wrap a step in `recsys.checkpoints.seeded`.
    """

    latents: Tensor

    def __init__(self, denoiser: Denoiser, latents: Tensor, config: DiffuseConfig) -> None:
        super().__init__()
        self.denoiser, self.config = denoiser, config
        self.schedule = Schedule(config.timesteps)
        self.register_buffer("latents", latents, persistent=False)

    def forward(self, conditions: Tensor, targets: Tensor) -> Losses:
        """Losses of conditions [B, d_h] whose next items are targets [B]; several timesteps a row, one embedding.

        The timesteps of a row are evenly spaced from a random one: each is uniform, together they cover the range.
        """
        config, device = self.config, targets.device
        dropped = torch.rand(len(targets), device=device) < (config.condition_dropout if self.training else 0)
        shares = (
            torch.rand(len(targets), 1, device=device)
            + torch.arange(config.timesteps_per_row, device=device) / config.timesteps_per_row
        )
        timesteps = (shares % 1 * config.timesteps).long().clamp(max=config.timesteps - 1)
        x0 = self.latents[targets][:, None]
        eps = torch.randn(*timesteps.shape, x0.shape[-1], device=device)
        noisy = self.schedule.noisy(x0, eps, timesteps)
        modulation = self.denoiser.modulation(self.denoiser.embed(conditions, dropped)[:, None], timesteps)
        denoised = self.denoiser(noisy, modulation)
        wanted = self.schedule.output(config.prediction, x0, eps, timesteps)
        error = F.mse_loss(denoised.output.float(), wanted)
        if not config.dispersive_weight:
            return Losses(error, error.new_zeros(()))
        return Losses(error, dispersive_loss(denoised.hidden[:, 0][~dropped], config.dispersive_temperature))
