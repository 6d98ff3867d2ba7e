"""Whitening of a block of item vectors: uncorrelated columns of the same variance.

Reads vectors [N, D]; gives a `Whitening`, whose buffers are saved with the network that reads through it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recsys.tables import FloatArray, slices

_CHUNK = 65_536
_EMPTY = 1e-8  # of the mean eigenvalue: below it a direction is one that no vector has


class Whitening(nn.Module):
    """x -> (x - mean) M for vectors [B, D], with `mean` [D] and M = `matrix` [D, D] as buffers."""

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("matrix", torch.eye(num_features))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors - self.mean) @ self.matrix


def fit_whitening(vectors: FloatArray, *, floor: float, energy: float) -> Whitening:
    """ZCA whitening (the symmetric one: the nearest to the vectors as they were) of vectors [N, D].

    Args:
        vectors: float32 [N, D], N of 1 or more.
        floor: eigenvalues of the covariance below `floor` times their mean are divided by that in place of themselves,
            so small directions stay small. Directions without any variance are dropped, also for vectors seen later.
        energy: the mean squared norm of the whitened vectors.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(_covariance(vectors, mean))
    values = np.maximum(values, 0)
    filled = values > max(_EMPTY * float(values.mean()), 1e-30)
    gains = np.where(filled, 1 / np.sqrt(np.maximum(values, max(floor * float(values.mean()), 1e-30))), 0)
    reached = float((values * gains**2).sum())
    gains *= np.sqrt(energy / reached) if reached else 0
    whitening = Whitening(vectors.shape[1])
    whitening.mean.copy_(torch.from_numpy(mean))
    whitening.matrix.copy_(torch.from_numpy((directions * gains) @ directions.T))
    return whitening


def _covariance(vectors: FloatArray, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for rows in slices(len(vectors), _CHUNK):
        centred = vectors[rows] - mean
        total += centred.T @ centred
    return total / len(vectors)
