"""Claims: an RQ-VAE of 12,101 items x 384 trains to a plateau in minutes; a million items get unique ids in two.

`python -m tests.benchmarks.tokenization [DATASET_FOLDER]` prints one JSON line a measurement. The folder holds
text_embeddings.parquet; it defaults to the Beauty benchmark beside the repository, generated vectors stand in for it.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

from recsys.tables import FloatArray, ItemVectors
from recsys.tokenization.assignment import unique_codes
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.quality import token_quality
from recsys.tokenization.tokenizer import RqVaeTokenizer, fit_rqvae
from tests.benchmarks.common import emit

_BEAUTY = Path(__file__).parents[2] / ".." / "shared" / "datasets" / "beauty"
_MILLION = 1_000_000


def main(folder: Path) -> None:
    path = folder / "text_embeddings.parquet"
    items = ItemVectors.load(path) if path.exists() else _generated(12_101)
    tokenizer = _training(items, path.parent.name if path.exists() else "generated")
    _assignment(tokenizer, items.vectors)


def _generated(count: int) -> ItemVectors:
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(48, 384))
    vectors = generator.normal(size=(count, 48)) @ basis + generator.normal(size=(count, 384))
    return ItemVectors([str(n) for n in range(count)], vectors.astype(np.float32))


def _training(items: ItemVectors, name: str) -> RqVaeTokenizer:
    start = time.perf_counter()
    tokenizer = fit_rqvae(items.vectors, TokenizeConfig(), seed=0)
    seconds = time.perf_counter() - start
    ids = tokenizer.assign(items.vectors, items.item_ids)
    quality = token_quality(tokenizer, items.vectors, ids, seed=0)
    emit(
        "tokenization",
        f"rq-vae on {name}",
        items=len(items),
        seconds=seconds,
        reconstruction_error=quality.reconstruction_error,
        collision_rate=quality.collision_rate,
        displaced=quality.displaced,
        neighbours_kept=quality.neighbours_kept or 0.0,
        perplexity=" ".join(f"{level.perplexity:.0f}" for level in quality.levels),
    )
    return tokenizer


def _assignment(tokenizer: RqVaeTokenizer, vectors: FloatArray) -> None:
    """A million items like the ones fitted on: each a noisy copy, so that the crowded places stay crowded."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((_MILLION, vectors.shape[1]), dtype=np.float32) * vectors.std() / 2
    many = vectors[generator.integers(len(vectors), size=_MILLION)] + noise
    del noise
    start = time.perf_counter()
    ids = tokenizer.assign(many, [f"{n:07d}" for n in range(_MILLION)])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    unique = len(np.unique(ids.codes @ (tokenizer.config.codebook_size ** np.arange(ids.num_levels))))
    emit("tokenization", "encode and assign", items=_MILLION, unique=unique, seconds=seconds, peak_gib=peak)
    same = np.zeros((20_000, tokenizer.config.latent_dim), dtype=np.float32)
    start = time.perf_counter()
    unique_codes(same, tokenizer.codebooks)
    emit("tokenization", "assign identical items", items=len(same), seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else _BEAUTY)
