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
    """Sinkhorn settings of the last level in training: see `uniform.transport_plan`."""

    epsilon: float
    iterations: int


def default_widths(num_features: int) -> tuple[int, ...]:
    """One hidden layer, of the power of two at or above the input, from 64 to 2048.

    Beside the linear shortcut one layer does better than several: relative error .436 with (512), .452 with
    (256, 128, 64), on the text vectors of Amazon Beauty after 40 epochs, in about the same time.
    """
    return (min(max(64, 1 << (num_features - 1).bit_length()), 2048),)


def distances(residual: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Squared distances [B, K] of residuals [B, d] to a codebook [K, d], less each residual's own square."""
    return torch.addmm(codebook.square().sum(dim=1), residual, codebook.T, alpha=-2)


class RqVae(nn.Module):
    """Encoder, `codebooks` [L, K, d] and decoder for standardised vectors [B, D].

    Encoder and decoder are a linear map, which starts at the principal components, plus a perceptron, which starts at
    zero. The next residual is r_h - sg(v): formed from the straight-through output instead, as in the published code,
    it is a constant to autograd and every level but the first loses its pull on the encoder. Relative error on Amazon
    Beauty after 40 epochs, this form against the published: .421 and .425 with commitment .1, .436 and .427 with the
    paper's .25 (every level pulls now, so less of it is needed).
    """

    def __init__(self, num_features: int, *, levels: int, codes: int, latent_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [num_features, *(hidden or default_widths(num_features)), latent_dim]
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
        hidden: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            hidden += [nn.Linear(before, after), nn.ReLU()]
        last = nn.Linear(widths[-2], widths[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*hidden, last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.linear(x) + self.layers(x)
        return total
