"""Item texts -> vectors: TF-IDF with truncated SVD, a sentence-transformers model, or user-provided vectors.

Reads a `Catalog`, and a parquet file (item_id, embedding) of user-provided vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.encoder import TFIDF, TextEncoder, TfidfEncoder, TransformerEncoder
from recsys.errors import ConfigError, DataError
from recsys.tables import Catalog, ItemVectors


class FittedTexts(NamedTuple):
    """The vectors of all items, and the encoder for further texts; None where the vectors are user-provided."""

    vectors: ItemVectors
    encoder: TextEncoder | None


def fit_texts(catalog: Catalog, config: EmbedConfig, *, seed: int) -> FittedTexts:
    """The text vectors of all items: from the configured file, or from an encoder fitted on the catalogue.

    Raises:
        ConfigError: `fields` names something that is no text column, or there is no such model.
        DataError: the file lacks items, or is no table of vectors.
        DependencyError: sentence-transformers is needed and not installed.
    """
    if config.vectors is not None:
        return FittedTexts(read_vectors(config.vectors, catalog), None)
    texts, fields = item_texts(catalog, config.fields), config.fields or catalog.text_columns
    if config.encoder == TFIDF:
        encoder, vectors = TfidfEncoder.fit(texts, dimensions=config.dimensions, seed=seed, fields=fields)
        return FittedTexts(ItemVectors(catalog.item_ids, vectors), encoder)
    transformer = TransformerEncoder(config.model, batch_size=config.batch_size, fields=fields)
    return FittedTexts(ItemVectors(catalog.item_ids, transformer.encode(texts)), transformer)


def item_texts(catalog: Catalog, fields: Sequence[str] = ()) -> list[str]:
    """One text an item: its fields (all text columns by default) joined by '. ', missing ones left out.

    Raises:
        ConfigError: a field is no text column of the catalogue.
    """
    unknown = [name for name in fields if name not in catalog.text_columns]
    if unknown:
        known = ", ".join(catalog.text_columns) or "none"
        raise ConfigError(f"embed.fields: {unknown[0]!r} is no text column of the catalogue; it has: {known}")
    columns = list(fields) or catalog.text_columns
    if not columns:
        return [""] * len(catalog)
    joined = pl.concat_str([pl.col(name).str.strip_chars() for name in columns], separator=". ", ignore_nulls=True)
    return catalog.frame.select(joined).to_series().to_list()


def read_vectors(path: Path, catalog: Catalog) -> ItemVectors:
    """User-provided vectors from parquet (item_id, embedding), in catalogue order; other items are ignored.

    Raises:
        DataError: the file is missing or no such table, repeats an item, or lacks items of the catalogue.
    """
    if not path.is_file():
        raise DataError(f"embed.vectors: {path} does not exist; give a parquet file of item_id and embedding")
    try:
        given = ItemVectors.load(path)
    except (OSError, ValueError) as error:  # raised by pyarrow for other formats
        raise DataError(f"embed.vectors: {path} is no parquet table of item_id and embedding") from error
    positions = {item_id: row for row, item_id in enumerate(given.item_ids)}
    if len(positions) < len(given):
        repeated, count = Counter(given.item_ids).most_common(1)[0]
        raise DataError(
            f"embed.vectors: {path.name} has {count} vectors for item {repeated!r}, and {len(given)} rows for "
            f"{len(positions)} items; keep one row an item"
        )
    missing = [item_id for item_id in catalog.item_ids if item_id not in positions]
    if missing:
        raise DataError(
            f"embed.vectors: {path.name} has no vector for {len(missing)} of {len(catalog)} items, the first is "
            f"{missing[0]!r}; the file has {', '.join(map(repr, given.item_ids[:3]))}, ...; add one for every item of "
            "the catalogue"
        )
    rows = np.array([positions[item_id] for item_id in catalog.item_ids], dtype=np.int64)
    return ItemVectors(catalog.item_ids, given.vectors[rows])
