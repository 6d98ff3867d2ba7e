"""Vectors -> unique semantic ids: the `Tokenizer` protocol, and the RQ-VAE that is its default implementation.

Writes and reads `tokenizer.safetensors` (network, codebooks, input scaling) and `tokenizer.json` (its configuration).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch

from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray, SemanticIds, slices
from recsys.tokenization.assignment import nearest_codes, unique_codes
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.rqvae import RqVae
from recsys.tokenization.training import build_rqvae, train_rqvae
from recsys.tracking import Tracker
from recsys.training.modules import Kind, Saved, load_module, save_module
from recsys.training.plan import Run

_CHUNK = 16_384
# What belongs to the other route is not saved: it would change this one's files where nothing of it has changed.
_KIND = Kind("rq-vae", TokenizeConfig, "tokenize", frozenset({"kind", "continuous"}), "tokenizer")


class Tokenizer(Protocol):
    """What every quantizer offers once it is fitted: vectors [N, D] to codes [N, L] and back."""

    @property
    def codebooks(self) -> FloatArray:
        """[L, K, d]: what each code adds to an item's latent."""

    def encode(self, vectors: FloatArray) -> IntArray:
        """The nearest codes [N, L] of each vector, not necessarily unique."""

    def decode(self, codes: IntArray) -> FloatArray:
        """The vectors [N, D] that codes [N, L] stand for."""

    def latents(self, vectors: FloatArray) -> FloatArray:
        """What is quantized [N, d]: the vectors as the codebooks' space has them."""

    def quantized(self, codes: IntArray) -> FloatArray:
        """The point z_hat [N, d] of that space that codes [N, L] stand for."""

    def assign(self, vectors: FloatArray, item_ids: Sequence[str]) -> SemanticIds:
        """A unique semantic id for every item, whatever the order of the rows."""

    def save(self, folder: Path) -> None:
        """Write `tokenizer.safetensors` and `tokenizer.json` into `folder`, which is created."""


def fit_rqvae(
    vectors: FloatArray,
    config: TokenizeConfig,
    *,
    seed: int,
    scale: FloatArray | None = None,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> "RqVaeTokenizer":
    """Train an RQ-VAE (LC-Rec, arXiv 2311.09049, section 3.1) on item vectors.

    Args:
        vectors: float32 [N, D], finite.
        config: shape of the ids, network and training.
        seed: decides everything random.
        scale: [D], what each centred column is multiplied by; by default one factor for all, to a mean square of one.
        work: where checkpoints go; a killed run given the same folder continues and ends bit-equal.
        tracker: receives `tokenize/...` metrics once an epoch.

    Raises:
        DataError: there are no vectors.
    """
    if not len(vectors):
        raise DataError("the tokenizer got no vectors; the catalogue has no items")
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    if scale is None:
        spread = float(np.sqrt(np.square(vectors - mean).mean(dtype=np.float64)))
        scale = np.full(vectors.shape[1], 1 / max(spread, 1e-12), dtype=np.float32)
    standardised = torch.from_numpy((vectors - mean) * scale)
    model = train_rqvae(standardised, config, run=Run("tokenize", seed, work, tracker))
    return RqVaeTokenizer(model, config, mean=mean, scale=scale)


class RqVaeTokenizer:
    """A trained RQ-VAE with the scaling of its input, so that it takes vectors as they come; see `Tokenizer`."""

    def __init__(self, model: RqVae, config: TokenizeConfig, *, mean: FloatArray, scale: FloatArray) -> None:
        self.model, self.config, self.mean, self.scale = model, config, mean, scale

    def __repr__(self) -> str:
        codes = f"{self.config.num_levels} levels x {self.config.codebook_size} codes"
        return f"<RqVaeTokenizer ({len(self.mean)} features, {codes})>"

    @property
    def codebooks(self) -> FloatArray:
        return self.model.codebooks.detach().numpy()

    def encode(self, vectors: FloatArray) -> IntArray:
        residual = self.latents(vectors)
        codes = np.empty((len(vectors), self.config.num_levels), dtype=np.int64)
        for level, codebook in enumerate(self.codebooks):
            codes[:, level] = nearest_codes(residual, codebook)
            residual -= codebook[codes[:, level]]
        return codes

    def quantized(self, codes: IntArray) -> FloatArray:
        total: FloatArray = self.codebooks[np.arange(self.config.num_levels), codes].sum(axis=1)
        return total

    @torch.no_grad()
    def decode(self, codes: IntArray) -> FloatArray:
        decoded: FloatArray = self.model.decoder(torch.from_numpy(self.quantized(codes))).numpy()
        return decoded / self.scale + self.mean

    def assign(self, vectors: FloatArray, item_ids: Sequence[str]) -> SemanticIds:
        """A unique semantic id for every item; the order of the rows changes nothing.

        Raises:
            DataError: vectors and item_ids differ in length, or there are more items than tuples of codes.
        """
        if len(vectors) != len(item_ids):
            raise DataError(f"semantic ids: got {len(vectors)} vectors for {len(item_ids)} item ids")
        order = np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), dtype=np.int64)
        codes = np.empty((len(vectors), self.config.num_levels), dtype=np.int64)
        codes[order] = unique_codes(self.latents(vectors[order]), self.codebooks)
        return SemanticIds(list(item_ids), codes, self.config.codebook_size)

    def latents(self, vectors: FloatArray) -> FloatArray:
        if vectors.shape[1:] != self.mean.shape:
            raise DataError(f"the tokenizer was fitted on {len(self.mean)} features, got vectors {vectors.shape}")
        out = np.empty((len(vectors), self.config.latent_dim), dtype=np.float32)
        for chunk in slices(len(vectors), _CHUNK):
            batch = torch.from_numpy((vectors[chunk] - self.mean) * self.scale)
            with torch.no_grad():
                out[chunk] = self.model.encoder(batch).numpy()
        return out

    def save(self, folder: Path) -> None:
        scaling = {"mean": torch.from_numpy(self.mean), "scale": torch.from_numpy(self.scale)}
        save_module(folder, _KIND, self.model, Saved(self.config, tensors=scaling))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            ArtifactError: a file is missing, damaged or of another version.
        """
        model, saved = load_module(folder, _KIND, lambda s: build_rqvae(len(s.tensors["mean"]), s.config))
        return cls(model, saved.config, mean=saved.tensors["mean"].numpy(), scale=saved.tensors["scale"].numpy())
