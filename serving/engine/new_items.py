"""Tokenizes new items for a live catalogue: cleaned texts become semantic ids and latents.

Uses a bundle's tokenizers, its text encoder, where it has one, and its text neighbours: a cold-start item takes the
collaborative vector of its proxy item, the nearest known item by text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys.data.texts import clean, decoded
from recsys.embeddings.encoder import TextEncoder
from recsys.embeddings.neighbours import TextNeighbours
from recsys.embeddings.text import item_texts
from recsys.errors import DataError
from recsys.tables import Catalog, FloatArray, IntArray, ItemVectors
from recsys.tokenization.assignment import free_codes
from recsys.tokenization.continuous import ContinuousTokenizer
from recsys.tokenization.inputs import combine
from recsys.tokenization.tokenizer import RqVaeTokenizer
from serving.engine.interface import NewItem

LONGEST_TEXT = 2000


class Tokens(NamedTuple):
    """Of M new items: rows for the catalogue, semantic ids [M, L], latents [M, D] for the index, and their proxy items
    [M], -1 for the mean of all."""

    rows: pl.DataFrame
    codes: IntArray
    latents: FloatArray
    proxies: IntArray


@dataclass(frozen=True)
class NewItemTokenizer:
    """The tokenizers and encoders of a bundle.

    `width` is that of a text vector. Without a continuous tokenizer, the discrete one's quantized points are latents.
    `neighbours` is None without collaborative vectors.
    """

    width: int
    discrete: RqVaeTokenizer
    continuous: ContinuousTokenizer | None
    encoder: TextEncoder | None
    neighbours: TextNeighbours | None

    def tokens(self, items: Sequence[NewItem], catalog: Catalog, taken: IntArray) -> Tokens:
        """Tokens of new items, distinct from those in use.

        Args:
            taken: [N, L] codes in use.

        Raises:
            DataError: an id is in use or repeated, a vector is missing or of another width, or no semantic id is free.
        """
        rows = _rows(items, catalog)
        text = ItemVectors([item.item_id for item in items], self._vectors(items, rows, catalog))
        behaviour, proxies = None, np.full(len(items), -1)
        if self.neighbours is not None:
            nearest = self.neighbours.proxies(text.vectors)
            behaviour, proxies = ItemVectors(text.item_ids, nearest.vectors), nearest.items
        inputs = combine(text, behaviour, self.discrete.config).vectors
        codes = free_codes(self.discrete.latents(inputs), self.discrete.codebooks, taken)
        if self.continuous is None:
            return Tokens(rows, codes, self.discrete.quantized(codes), proxies)
        return Tokens(rows, codes, self.continuous.latents(text, behaviour).vectors, proxies)

    def _vectors(self, items: Sequence[NewItem], rows: pl.DataFrame, catalog: Catalog) -> FloatArray:
        """Text vectors [M, D_text]: the given ones, or encoded from the texts."""
        given = [item.vector for item in items]
        missing = [item.item_id for item in items if item.vector is None]
        if missing and self.encoder is None:
            raise DataError(
                f"item {missing[0][:100]!r} has no vector, and this bundle has no text encoder "
                "(its vectors came from a file); give every new item a vector"
            )
        wrong = next((v for v in given if v is not None and len(v) != self.width), None)
        if wrong is not None:
            raise DataError(f"vectors of new items: got {len(wrong)} numbers, this bundle's have {self.width}")
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        if missing and self.encoder is not None:
            frame = pl.concat([catalog.frame.clear(), rows], how="diagonal")
            vectors = self.encoder.encode(item_texts(Catalog(frame), self.encoder.fields)).astype(np.float32)
        for row, vector in enumerate(given):
            if vector is not None:
                vectors[row] = vector
        if not np.isfinite(vectors).all():
            raise DataError("vectors of new items: NaN or infinite values; every item needs finite numbers")
        return vectors


def _rows(items: Sequence[NewItem], catalog: Catalog) -> pl.DataFrame:
    """item_id and cleaned text columns."""
    ids = [item.item_id for item in items]
    known = next((item_id for item_id in ids if item_id in catalog.positions), None)
    if known is not None:
        raise DataError(f"item {known[:100]!r} is in the catalogue already; choose another id")
    if len(set(ids)) != len(ids):
        raise DataError("new items: an item_id is repeated; every item needs its own")
    unknown = sorted({column for item in items for column in item.texts} - set(catalog.text_columns))
    if unknown:
        columns = ", ".join(catalog.text_columns) or "none"
        raise DataError(f"new items: {unknown[0][:100]!r} is no text column of the catalogue; it has: {columns}")
    texts = {column: [item.texts.get(column) for item in items] for column in catalog.text_columns}
    frame = pl.DataFrame({"item_id": ids, **texts}, schema={"item_id": pl.String, **dict.fromkeys(texts, pl.String)})
    return frame.with_columns(clean(decoded(pl.col(column)), longest=LONGEST_TEXT) for column in texts)
