"""Item vectors -> continuous tokens: a sigma-VAE with the whitening of its input and the scaling of its latents.

Writes and reads `continuous.safetensors` (network, whitening, scaling) and `continuous.json` (its configuration).
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch

from recsys.errors import DataError
from recsys.tables import FloatArray, ItemVectors, slices
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.continuous_inputs import WhitenedBlocks
from recsys.tokenization.sigma_vae import SigmaVae
from recsys.tokenization.training import build_sigma_vae, train_sigma_vae
from recsys.tracking import Tracker
from recsys.training.modules import Kind, Saved, load_module, save_module
from recsys.training.plan import Run

_CHUNK = 16_384
_KIND = Kind("sigma-vae", ContinuousConfig, "tokenize", stem="continuous")


def fit_sigma_vae(
    text: ItemVectors,
    collaborative: ItemVectors | None,
    config: ContinuousConfig,
    *,
    seed: int,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> ContinuousTokenizer:
    """Train a sigma-VAE (ContRec, arXiv 2504.12007) on the items' vectors.

    Args:
        text: one vector an item.
        collaborative: of the same items; None where there are none: the input is text alone then.
        config: shape of the latents, weights of the blocks, training.
        seed: decides everything random.
        work: where checkpoints go; a killed run given the same folder continues and ends bit-equal.
        tracker: receives `continuous/...` metrics once an epoch.

    Raises:
        ConfigError: no block of the input has a weight.
        DataError: there are no items, or the two blocks are not of the same ones.
    """
    if not len(text):
        raise DataError("the continuous tokens got no vectors; the catalogue has no items")
    blocks = WhitenedBlocks.fit(text, collaborative, config)
    x = blocks.whiten(blocks.given(text, collaborative), slice(None))
    model = train_sigma_vae(x, config, run=Run("continuous", seed, work, tracker))
    width = config.num_tokens * config.token_dim
    shift, ones = np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32)
    mu = ContinuousTokenizer(model, config, blocks, shift=shift, scale=ones).latents(text, collaborative).vectors
    deviation = mu.std(axis=0, dtype=np.float64).astype(np.float32)
    shift = mu.mean(axis=0, dtype=np.float64).astype(np.float32)
    return ContinuousTokenizer(model, config, blocks, shift=shift, scale=np.where(deviation > 1e-6, deviation, ones))


class ContinuousTokenizer:
    """A trained sigma-VAE that takes vectors as they come and gives latents of zero mean and unit deviation.

    Attributes:
        model: the network, between whitened vectors and mu.
        blocks: what whitens them.
        shift, scale: [K * d], the mean and deviation of mu over the items fitted on.
    """

    def __init__(
        self,
        model: SigmaVae,
        config: ContinuousConfig,
        blocks: WhitenedBlocks,
        *,
        shift: FloatArray,
        scale: FloatArray,
    ) -> None:
        self.model, self.config, self.blocks, self.shift, self.scale = model, config, blocks, shift, scale

    def __repr__(self) -> str:
        features = " + ".join(f"{width} {name}" for name, width in self.blocks.widths.items())
        return (
            f"<ContinuousTokenizer ({features} features, {self.config.num_tokens} x {self.config.token_dim} latents)>"
        )

    @property
    def width(self) -> int:
        """K * d, the numbers in an item's latents."""
        return self.config.num_tokens * self.config.token_dim

    @torch.no_grad()
    def latents(self, text: ItemVectors, collaborative: ItemVectors | None) -> ItemVectors:
        """Normalised latents float32 [N, K * d] of items, fitted on or new; every row by itself, nothing random.

        Raises:
            DataError: a block is missing, or they are not of the same items, or of another width than those fitted on.
        """
        out = np.empty((len(text), self.width), dtype=np.float32)
        given = self.blocks.given(text, collaborative)
        for chunk in slices(len(text), _CHUNK):
            mu = self.model.encode(self.blocks.whiten(given, chunk))
            out[chunk] = (mu.flatten(1).numpy() - self.shift) / self.scale
        return ItemVectors(list(text.item_ids), out)

    def mu(self, latents: FloatArray) -> torch.Tensor:
        """The encoders' own latents [N, K, d] behind normalised ones [N, K * d].

        Raises:
            DataError: the latents are of another width.
        """
        if latents.shape[1:] != (self.width,):
            raise DataError(f"got latents {latents.shape}, expected [N, {self.width}]")
        flat = torch.from_numpy(latents * self.scale + self.shift)
        return flat.reshape(len(flat), self.config.num_tokens, self.config.token_dim)

    def save(self, folder: Path) -> None:
        """Write `continuous.safetensors` and `continuous.json` into `folder`, which is created."""
        scaling = {"shift": torch.from_numpy(self.shift), "scale": torch.from_numpy(self.scale)}
        save_module(folder, _KIND, self.model, Saved(self.config, tensors=self.blocks.tensors() | scaling))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            ArtifactError: a file is missing, damaged or of another version.
        """

        def build(saved: Saved[ContinuousConfig]) -> SigmaVae:
            num_features = WhitenedBlocks.from_tensors(saved.tensors).num_features
            with torch.device("meta"):  # weights come from the file; none are drawn
                return build_sigma_vae(num_features, saved.config)

        model, (config, _, tensors) = load_module(folder, _KIND, build)
        shift, scale = tensors["shift"].numpy(), tensors["scale"].numpy()
        return cls(model, config, WhitenedBlocks.from_tensors(tensors), shift=shift, scale=scale)
