"""Quality of continuous tokens: active dimensions, difference of the encoders, reconstruction and neighbours kept.

Reads a fitted tokenizer and the vectors it takes; gives `LatentQuality`, which is written as latent_quality.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from recsys.tables import FloatArray, ItemVectors
from recsys.tokenization.continuous import ContinuousTokenizer
from recsys.tokenization.measures import neighbours_kept, relative_error

ACTIVE_VARIANCE = 0.01
_MOST_ITEMS = 100_000


@dataclass(frozen=True)
class LatentQuality:
    """The figures of latent_quality.json.

    Attributes:
        num_items: how many items were measured, at most 100,000.
        dimensions: K * d, the numbers in an item's latents.
        active: share of dimensions whose mu varies by more than .01 (before normalisation).
        smallest_variance: that of the least active dimension.
        encoder_correlation: mean absolute correlation of the same dimension of two encoders; `encoder_cosine`, mean
            absolute cosine of an item's centred latents from two encoders. 1 is copies; None with one encoder.
        reconstruction_error: mean squared error over variance of the whitened input, decoded from mu; `_noisy`, from
            mu with the noise of training.
        neighbours_kept: share of an item's 10 nearest in the whitened, weighted input that are among its 10 nearest
            latents; None where there are 11 items or fewer.
    """

    num_items: int
    dimensions: int
    active: float
    smallest_variance: float
    encoder_correlation: float | None
    encoder_cosine: float | None
    reconstruction_error: float
    reconstruction_error_noisy: float
    neighbours_kept: float | None


def latent_quality(
    tokenizer: ContinuousTokenizer, text: ItemVectors, collaborative: ItemVectors | None, *, seed: int
) -> LatentQuality:
    """Measure a tokenizer on items; see `LatentQuality` for the figures.

    Args:
        collaborative: as in `ContinuousTokenizer.latents`.
        seed: of the sample of items, and of the noise.
    """
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(text), size=min(_MOST_ITEMS, len(text)), replace=False))
    text, collaborative = _rows(text, rows), _rows(collaborative, rows) if collaborative else None
    latents = tokenizer.latents(text, collaborative).vectors
    mu = tokenizer.mu(latents)
    with torch.no_grad():
        whole = tokenizer.blocks.given(text, collaborative)
        x = tokenizer.blocks.whiten(whole, slice(None)).numpy()
        decoded = tokenizer.model.decode(mu).numpy()
        noisy = tokenizer.model.decode(tokenizer.model.perturb(mu, torch.Generator().manual_seed(seed))).numpy()
    variances = mu.numpy().var(axis=0)
    likeness = _likeness(mu.numpy())
    return LatentQuality(
        num_items=len(text),
        dimensions=latents.shape[1],
        active=float((variances > ACTIVE_VARIANCE).mean()),
        smallest_variance=float(variances.min()),
        encoder_correlation=likeness[0] if likeness else None,
        encoder_cosine=likeness[1] if likeness else None,
        reconstruction_error=relative_error(decoded, x),
        reconstruction_error_noisy=relative_error(noisy, x),
        neighbours_kept=neighbours_kept(x, latents, generator),
    )


def _rows(items: ItemVectors, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ItemVectors:
    return ItemVectors([items.item_ids[row] for row in rows], items.vectors[rows])


def _likeness(mu: FloatArray) -> tuple[float, float] | None:
    """Mean absolute correlation by dimension and mean absolute cosine by item, over pairs of encoders [N, K, d]."""
    centred = mu - mu.mean(axis=0)
    by_dimension = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    by_item = centred / np.maximum(np.linalg.norm(centred, axis=2, keepdims=True), 1e-12)
    pairs = list(combinations(range(mu.shape[1]), 2))
    if not pairs:
        return None
    correlations = [np.abs((by_dimension[:, a] * by_dimension[:, b]).sum(axis=0)).mean() for a, b in pairs]
    cosines = [np.abs((by_item[:, a] * by_item[:, b]).sum(axis=1)).mean() for a, b in pairs]
    return float(np.mean(correlations)), float(np.mean(cosines))
