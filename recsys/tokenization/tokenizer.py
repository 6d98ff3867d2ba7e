"""Vectors -> unique semantic ids: the `Tokenizer` protocol, and the RQ-VAE that is its default implementation.

Writes and reads `tokenizer.safetensors` (network, codebooks, input scaling) and `tokenizer.json` (its configuration).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recsys.errors import ArtifactError, DataError
from recsys.tables import FloatArray, IntArray, SemanticIds
from recsys.tokenization.assignment import nearest_codes, unique_codes
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.rqvae import RqVae
from recsys.tokenization.training import train_rqvae
from recsys.tracking import NullTracker, Tracker

_CHUNK = 16_384
_VERSION = 1


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
        """Write `tokenizer.safetensors` and `tokenizer.json` into a folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote."""


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
        scale: [D], what each centred column is multiplied by; by default all alike, to a mean square of one.
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
    model = train_rqvae(standardised, config, seed=seed, work=work, tracker=tracker or NullTracker())
    return RqVaeTokenizer(model, config, mean=mean, scale=scale)


class RqVaeTokenizer:
    """A trained RQ-VAE with the scaling of its input, so that it takes vectors as they come."""

    def __init__(self, model: RqVae, config: TokenizeConfig, *, mean: FloatArray, scale: FloatArray) -> None:
        self.model, self.config, self.mean, self.scale = model, config, mean, scale

    def __repr__(self) -> str:
        return f"<RqVaeTokenizer ({len(self.mean)} features, {self.config.levels} levels x {self.config.codes} codes)>"

    @property
    def codebooks(self) -> FloatArray:
        """[L, K, d]."""
        return self.model.codebooks.detach().numpy()

    def encode(self, vectors: FloatArray) -> IntArray:
        """The nearest codes [N, L] of vectors [N, D], not necessarily unique."""
        residual = self.latents(vectors)
        codes = np.empty((len(vectors), self.config.levels), dtype=np.int64)
        for level, codebook in enumerate(self.codebooks):
            codes[:, level] = nearest_codes(residual, codebook)
            residual -= codebook[codes[:, level]]
        return codes

    def quantized(self, codes: IntArray) -> FloatArray:
        """z_hat [N, d], the sum of the code vectors of codes [N, L]."""
        total: FloatArray = self.codebooks[np.arange(self.config.levels), codes].sum(axis=1)
        return total

    @torch.no_grad()
    def decode(self, codes: IntArray) -> FloatArray:
        """The vectors [N, D] that codes [N, L] stand for, in the scale of the input."""
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
        codes = np.empty((len(vectors), self.config.levels), dtype=np.int64)
        codes[order] = unique_codes(self.latents(vectors, order), self.codebooks)
        return SemanticIds(list(item_ids), codes, self.config.codes)

    def latents(self, vectors: FloatArray, rows: IntArray | None = None) -> FloatArray:
        """The encoder's latents [N, d] of vectors [N, D], of the given rows in their order where `rows` is given."""
        rows = np.arange(len(vectors)) if rows is None else rows
        if vectors.shape[1:] != self.mean.shape:
            raise DataError(f"the tokenizer was fitted on {len(self.mean)} features, got vectors {vectors.shape}")
        out = np.empty((len(rows), self.config.latent_dim), dtype=np.float32)
        for chunk in _chunks(len(rows)):
            batch = torch.from_numpy((vectors[rows[chunk]] - self.mean) * self.scale)
            with torch.no_grad():
                out[chunk] = self.model.encoder(batch).numpy()
        return out

    def save(self, folder: Path) -> None:
        """Write `tokenizer.safetensors` and `tokenizer.json` into a folder."""
        tensors = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        scaling = {"mean": torch.from_numpy(self.mean), "scale": torch.from_numpy(self.scale)}
        save_file(tensors | scaling, folder / "tokenizer.safetensors")
        # What belongs to the other route would make this one's files differ where nothing of it has changed.
        config = self.config.model_dump(mode="json", exclude={"kind", "continuous"})
        described = {"kind": "rq-vae", "version": _VERSION, "config": config}
        (folder / "tokenizer.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            ArtifactError: a file is missing, damaged or of another version.
        """
        try:
            described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "tokenizer.safetensors")
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise ArtifactError(f"the tokenizer in {folder} cannot be read ({error}); run `tokenize` again") from error
        if (described.get("kind"), described.get("version")) != ("rq-vae", _VERSION):
            raise ArtifactError(
                f"{folder / 'tokenizer.json'} is not an rq-vae of version {_VERSION}; run `tokenize` again"
            )
        config = TokenizeConfig.model_validate(described["config"])
        mean, scale = tensors.pop("mean").numpy(), tensors.pop("scale").numpy()
        model = RqVae(
            len(mean), levels=config.levels, codes=config.codes, latent_dim=config.latent_dim, hidden=config.hidden
        )
        model.load_state_dict(tensors)
        return cls(model.eval(), config, mean=mean, scale=scale)


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, _CHUNK):
        yield slice(start, start + _CHUNK)
