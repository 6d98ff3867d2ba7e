"""The RQ-VAE's network: an encoder to a small latent, residual codebooks, a mirrored decoder, and the losses.

LC-Rec (arXiv 2311.09049, section 3.1.1), after RQ-VAE (arXiv 2203.01941). Reads and writes tensors only.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recsys.tokenization.uniform import uniform_codes


class Quantized(NamedTuple):
    """Codes [B, L], their sum z_hat [B, d], and the codebook and commitment losses, each a mean over levels."""

    codes: torch.Tensor
    latent: torch.Tensor
    codebook_loss: torch.Tensor
    commitment_loss: torch.Tensor


class Transport(NamedTuple):
    """How the last level is levelled while training: see `uniform.transport_plan`."""

    epsilon: float
    iterations: int


def default_widths(num_features: int, latent_dim: int) -> tuple[int, ...]:
    """Hidden widths for an input: halving from the power of two at or above it, down to twice the latent."""
    width = 1 << max(num_features - 1, 1).bit_length()
    widths = []
    while width >= 2 * latent_dim:
        widths.append(min(width, 2048))
        width //= 2
    return tuple(dict.fromkeys(widths))


def distances(residual: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Squared distances [B, K] of residuals [B, d] to a codebook [K, d], less each residual's own square."""
    return torch.addmm(codebook.square().sum(dim=1), residual, codebook.T, alpha=-2)


class RqVae(nn.Module):
    """Encoder, `codebooks` [L, K, d] and decoder for standardised vectors [B, D].

    The next residual is r_h - sg(v): formed from the straight-through output instead, as in the published code, it is
    a constant to autograd and every level but the first loses its pull on the encoder.
    """

    def __init__(self, num_features: int, *, levels: int, codes: int, latent_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [num_features, *(hidden or default_widths(num_features, latent_dim)), latent_dim]
        self.encoder = _Shortcut(widths)
        self.decoder = _Shortcut(widths[::-1])
        self.codebooks = nn.Parameter(torch.zeros(levels, codes, latent_dim))

    @torch.no_grad()
    def start_linear(self, vectors: torch.Tensor) -> None:
        """Set both linear parts to the principal components of standardised vectors [N, D]."""
        components = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, : self.codebooks.shape[2]]
        for part, weight in ((self.encoder.linear, components.T), (self.decoder.linear, components)):
            part.weight.zero_()
            part.weight[: weight.shape[0], : weight.shape[1]] = weight
            part.bias.zero_()

    def quantize(self, latent: torch.Tensor, *, transport: Transport | None = None) -> Quantized:
        """Residual quantization of latents [B, d]; with `transport` the last level's codes are spread evenly."""
        residual, total = latent, torch.zeros_like(latent)
        codes, codebook_losses, commitment_losses = [], [], []
        for level, codebook in enumerate(self.codebooks):
            costs = distances(residual.detach(), codebook.detach())
            if transport is not None and level == len(self.codebooks) - 1:
                chosen = uniform_codes(costs, epsilon=transport.epsilon, iterations=transport.iterations)
            else:
                chosen = costs.argmin(dim=1)
            vector = F.embedding(chosen, codebook)
            codebook_losses.append(F.mse_loss(vector, residual.detach()))
            commitment_losses.append(F.mse_loss(residual, vector.detach()))
            residual = residual - vector.detach()
            total = total + vector.detach()
            codes.append(chosen)
        return Quantized(
            torch.stack(codes, dim=1),
            latent + (total - latent).detach(),
            torch.stack(codebook_losses).mean(),
            torch.stack(commitment_losses).mean(),
        )


class _Shortcut(nn.Module):
    """A linear map plus a ReLU perceptron that starts at zero."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(widths[0], widths[-1])
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        nn.init.zeros_(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.layers(x)
