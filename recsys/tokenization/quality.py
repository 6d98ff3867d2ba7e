"""How good semantic ids are: use of the codes, what uniqueness cost, and whether ids mean something.

Reads a fitted tokenizer, its vectors and its ids; gives `TokenQuality`, which is written as token_quality.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.tables import FloatArray, Histories, IntArray, SemanticIds
from recsys.tokenization.measures import neighbours_kept, relative_error
from recsys.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class LevelQuality:
    """One level's codes over all items. `perplexity` is exp(entropy) of their shares; `max_load` is in expected loads;
    `prefixes` counts the distinct tuples up to and with this level."""

    codes_used: int
    dead_codes: int
    perplexity: float
    max_load: float
    prefixes: int


@dataclass(frozen=True)
class TokenQuality:
    """The figures of token_quality.json.

    Attributes:
        levels: of the unique ids.
        collision_rate: share of items whose nearest codes are not theirs alone.
        displaced: share of items whose unique id is not their nearest codes; `displaced_prefix`, before the last code.
        displacement: what displacing costs those items: their squared distance in latent space over the nearest
            codes', a ratio; None where none is displaced.
        reconstruction_error: mean squared error over variance, of the nearest codes; `_unique`, of the unique ids.
        neighbours_kept: share of an item's 10 nearest in the input that are among its 10 nearest in z_hat.
        category_purity: by prefix length, the mean share of the other items under an item's prefix that are in
            its category; None where no prefix has two items; `category_chance`, of the whole catalogue.
        next_code_information: bits that an item's first code tells about the next item's in histories;
            `_shuffled`, the same with the pairs torn apart, which is the bias of the estimate.
    """

    num_items: int
    levels: list[LevelQuality]
    collision_rate: float
    displaced: float
    displaced_prefix: float
    displacement: float | None
    reconstruction_error: float
    reconstruction_error_unique: float
    neighbours_kept: float | None
    category_purity: list[float | None] | None
    category_chance: float | None
    next_code_information: float | None
    next_code_information_shuffled: float | None


def token_quality(
    tokenizer: Tokenizer,
    vectors: FloatArray,
    ids: SemanticIds,
    *,
    seed: int,
    categories: Sequence[str | None] | None = None,
    histories: Histories | None = None,
) -> TokenQuality:
    """Measure unique ids against the vectors [N, D] they were made from; see `TokenQuality` for the figures.

    Args:
        categories: one label an item, None where unknown.
        histories: training sequences of item indices.
        seed: of the sample of items whose neighbours are compared, and of the shuffled pairs.
    """
    generator = np.random.default_rng(seed)
    nearest = tokenizer.encode(vectors)
    moved = (nearest != ids.codes).any(axis=1)
    latents, z_hat = tokenizer.latents(vectors), tokenizer.quantized(ids.codes)
    known = _labels(categories) if categories is not None else None
    prefixes = [_prefix(ids.codes, length) for length in range(1, ids.num_levels)]
    purities = None if known is None else [_purity(prefix, known) for prefix in prefixes]
    information = _next_code_information(ids.codes[:, 0], histories, generator) if histories is not None else None
    return TokenQuality(
        num_items=len(ids),
        levels=[_level(ids, level) for level in range(ids.num_levels)],
        collision_rate=_collision_rate(nearest),
        displaced=float(moved.mean()),
        displaced_prefix=float((nearest != ids.codes)[:, :-1].any(axis=1).mean()),
        displacement=_displacement(latents[moved], z_hat[moved], tokenizer.quantized(nearest[moved])),
        reconstruction_error=relative_error(tokenizer.decode(nearest), vectors),
        reconstruction_error_unique=relative_error(tokenizer.decode(ids.codes), vectors),
        neighbours_kept=neighbours_kept(vectors, z_hat, generator),
        category_purity=purities,
        category_chance=None if known is None else _purity(np.zeros(len(ids), dtype=np.int64), known),
        next_code_information=information[0] if information else None,
        next_code_information_shuffled=information[1] if information else None,
    )


def _level(ids: SemanticIds, level: int) -> LevelQuality:
    counts = np.bincount(ids.codes[:, level], minlength=ids.num_codes)
    used = int((counts > 0).sum())
    return LevelQuality(
        codes_used=used,
        dead_codes=ids.num_codes - used,
        perplexity=float(2 ** _entropy_bits(counts)),
        max_load=float(counts.max() * ids.num_codes / len(ids)),
        prefixes=int(_prefix(ids.codes, level + 1).max()) + 1,
    )


def _prefix(codes: IntArray, length: int) -> IntArray:
    """A dense label [N] of each item's first `length` codes."""
    labels = np.zeros(len(codes), dtype=np.int64)
    for level in range(length):
        labels = np.unique(labels * (int(codes.max()) + 1) + codes[:, level], return_inverse=True)[1]
    return labels


def _entropy_bits(counts: IntArray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _collision_rate(codes: IntArray) -> float:
    sizes = np.bincount(_prefix(codes, codes.shape[1]))
    return float(sizes[sizes > 1].sum() / len(codes))


def _displacement(latents: FloatArray, z_hat: FloatArray, nearest: FloatArray) -> float | None:
    if not len(latents):
        return None
    before = float(np.square(latents - nearest).sum())
    return float(np.square(latents - z_hat).sum()) / max(before, 1e-12)


def _labels(categories: Sequence[str | None]) -> IntArray:
    """Categories as numbers [N], -1 where unknown."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(c for c in categories if c is not None))}
    return np.array([-1 if name is None else numbers[name] for name in categories], dtype=np.int64)


def _purity(prefixes: IntArray, labels: IntArray) -> float | None:
    prefixes, labels = prefixes[labels >= 0], labels[labels >= 0]
    if not len(labels):
        return None
    others = np.bincount(prefixes)[prefixes] - 1
    cells = np.unique(prefixes * (labels.max() + 1) + labels, return_inverse=True)[1]
    same = np.bincount(cells)[cells] - 1
    has_others = others > 0
    return float((same[has_others] / others[has_others]).mean()) if has_others.any() else None


def _next_code_information(
    first: IntArray, histories: Histories, generator: np.random.Generator
) -> tuple[float, float] | None:
    """Bits of mutual information between neighbours' first codes in histories, and between shuffled ones'."""
    inside = np.ones(max(len(histories.items) - 1, 0), dtype=np.bool_)
    ends = histories.indptr[1:-1]
    inside[ends[(ends > 0) & (ends < len(histories.items))] - 1] = False
    before, after = first[histories.items[:-1][inside]], first[histories.items[1:][inside]]
    if not len(before):
        return None
    return _information(before, after), _information(before, generator.permutation(after))


def _information(before: IntArray, after: IntArray) -> float:
    joint = np.unique(before * (int(after.max()) + 1) + after, return_counts=True)[1]
    return _entropy_bits(np.bincount(before)) + _entropy_bits(np.bincount(after)) - _entropy_bits(joint)
