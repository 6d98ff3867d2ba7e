"""The sigma-VAE's network: K parallel encoders, masking, noise of a sampled size, one decoder, and the losses.

ContRec (arXiv 2504.12007), with the sampled variance of LatentLM (arXiv 2412.08635, section 2.2). Reads and writes
tensors only.
"""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recsys.tokenization.rqvae import default_widths


class Losses(NamedTuple):
    """Mean squared error, mean mu^2, and the similarity of the encoders (0 where there is one)."""

    reconstruction: torch.Tensor
    kl: torch.Tensor
    similarity: torch.Tensor


def noise_scale(rows: int, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """s [rows] ~ N(0, (sigma sqrt(pi / 2))^2), so that E|s| = sigma. Sampled, not learned, it cannot shrink to zero."""
    return torch.randn(rows, generator=generator) * sigma * math.sqrt(math.pi / 2)


def encoder_similarity(mu: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine between the K centred latents of an item, mu [B, K, d], over items and pairs; 0 if K is 1."""
    directions = F.normalize(mu - mu.mean(dim=0), dim=2)
    tokens = combinations(range(mu.shape[1]), 2)
    pairs = [(directions[:, a] * directions[:, b]).sum(dim=1).square().mean() for a, b in tokens]
    return torch.stack(pairs).mean() if pairs else mu.new_zeros(())


class SigmaVae(nn.Module):
    """Encoders and decoder for whitened vectors [B, D]; an item's latents are mu [B, K, d]."""

    def __init__(
        self, num_features: int, *, tokens: int, token_dim: int, hidden: Sequence[int], sigma: float, mask_rate: float
    ) -> None:
        super().__init__()
        self.sigma, self.mask_rate = sigma, mask_rate
        widths = [num_features, *(hidden or default_widths(num_features)), token_dim]
        self.masked = nn.Parameter(torch.zeros(num_features))
        self.encoders = nn.ModuleList(_perceptron(widths) for _ in range(tokens))
        self.decoder = _perceptron(widths[::-1])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """mu [B, K, d] of whitened vectors [B, D]."""
        return torch.stack([encoder(x) for encoder in self.encoders], dim=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Whitened vectors [B, D] from the mean of an item's latents [B, K, d]."""
        decoded: torch.Tensor = self.decoder(latents.mean(dim=1))
        return decoded

    def mask(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A copy of x [B, D], in training with every feature of every row at odds of `mask_rate` a learned value."""
        if not self.training:
            return x
        return torch.where(torch.rand(x.shape, generator=generator) < self.mask_rate, self.masked, x)

    def perturb(self, mu: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """z = mu + s eps [B, K, d]: s one number a row, eps fresh for every row, token and dimension."""
        scale = noise_scale(len(mu), self.sigma, generator)
        return mu + scale[:, None, None] * torch.randn(mu.shape, generator=generator)

    def losses(self, x: torch.Tensor, generator: torch.Generator) -> Losses:
        """What training minimises, for whitened vectors [B, D]; the target is x without its mask."""
        mu = self.encode(self.mask(x, generator))
        decoded = self.decode(self.perturb(mu, generator))
        return Losses(F.mse_loss(decoded, x), mu.square().mean(), encoder_similarity(mu))


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
