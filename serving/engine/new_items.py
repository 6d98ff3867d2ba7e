"""New items for a live catalogue: their texts cleaned, and turned into semantic ids and latents beside the others'.

Reads a bundle's tokenizers, its text encoder, where it has one, and its text neighbours: an item that nobody has met is
known by its text, and is taken to behave as the known item it reads like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys.data.texts import clean
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
    """Of M new items: rows for the catalogue, semantic ids [M, L], latents [M, D] as the index has them, and the items
    [M] whose behaviour they borrow, -1 for the mean of all."""

    rows: pl.DataFrame
    codes: IntArray
    latents: FloatArray
    lenders: IntArray


@dataclass(frozen=True)
class NewItemTokenizer:
    """What a bundle needs to give a new item its tokens.

    `width` is that of a text vector. Without a continuous tokenizer, the discrete one's quantized points are latents.
    `neighbours` is None where the run has no collaborative vectors.
    """

    width: int
    discrete: RqVaeTokenizer
    continuous: ContinuousTokenizer | None
    encoder: TextEncoder | None
    neighbours: TextNeighbours | None

    def tokens(self, items: Sequence[NewItem], catalog: Catalog, taken: IntArray) -> Tokens:
        """Tokens beside those in use.

        Args:
            taken: [N, L] codes in use.

        Raises:
            DataError: an id is in use or given twice, a vector is missing or of another width, or no id is left.
        """
        rows = _rows(items, catalog)
        text = ItemVectors([item.item_id for item in items], self._vectors(items, rows, catalog))
        behaviour, lenders = None, np.full(len(items), -1)
        if self.neighbours is not None:
            borrowed = self.neighbours.proxies(text.vectors)
            behaviour, lenders = ItemVectors(text.item_ids, borrowed.vectors), borrowed.items
        inputs = combine(text, behaviour, self.discrete.config).vectors
        codes = free_codes(self.discrete.latents(inputs), self.discrete.codebooks, taken)
        if self.continuous is None:
            return Tokens(rows, codes, self.discrete.quantized(codes), lenders)
        return Tokens(rows, codes, self.continuous.latents(text, behaviour).vectors, lenders)

    def _vectors(self, items: Sequence[NewItem], rows: pl.DataFrame, catalog: Catalog) -> FloatArray:
        """A text vector [M, D_text] an item: its own, or one of its texts."""
        given = [item.vector for item in items]
        missing = [item.item_id for item in items if item.vector is None]
        if missing and self.encoder is None:
            raise DataError(
                f"item {missing[0][:100]!r} has no vector, and this bundle cannot make one of a text "
                "(its vectors came from a file); give every new item a vector"
            )
        wrong = next((v for v in given if v is not None and len(v) != self.width), None)
        if wrong is not None:
            raise DataError(f"vectors of new items: got {len(wrong)} numbers, this bundle's have {self.width}")
        made = np.zeros((len(items), self.width), dtype=np.float32)
        if missing and self.encoder is not None:
            frame = pl.concat([catalog.frame.clear(), rows], how="diagonal")
            made = self.encoder.encode(item_texts(Catalog(frame), self.encoder.fields)).astype(np.float32)
        for row, vector in enumerate(given):
            if vector is not None:
                made[row] = vector
        if not np.isfinite(made).all():
            raise DataError("vectors of new items: NaN or infinite values; every item needs finite numbers")
        return made


def _rows(items: Sequence[NewItem], catalog: Catalog) -> pl.DataFrame:
    """item_id and cleaned text columns."""
    ids = [item.item_id for item in items]
    known = next((item_id for item_id in ids if item_id in catalog.positions), None)
    if known is not None:
        raise DataError(f"item {known[:100]!r} is in the catalogue already; an item is added once")
    if len(set(ids)) != len(ids):
        raise DataError("new items: an item_id is given twice; every item needs its own")
    unknown = sorted({column for item in items for column in item.texts} - set(catalog.text_columns))
    if unknown:
        columns = ", ".join(catalog.text_columns) or "none"
        raise DataError(f"new items: {unknown[0][:100]!r} is no text column of the catalogue; it has: {columns}")
    texts = {column: [item.texts.get(column) for item in items] for column in catalog.text_columns}
    frame = pl.DataFrame({"item_id": ids, **texts}, schema={"item_id": pl.String, **dict.fromkeys(texts, pl.String)})
    return frame.with_columns(clean(pl.col(column), longest=LONGEST_TEXT) for column in texts)
