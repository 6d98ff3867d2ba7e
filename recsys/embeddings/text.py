"""Item texts -> vectors: TF-IDF with truncated SVD, a sentence-transformers model, or vectors of one's own.

Reads a `Catalog`, and a parquet file (item_id, embedding) for one's own vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.encoder import TFIDF, TextEncoder, TfidfEncoder, TransformerEncoder
from recsys.errors import ConfigError, DataError
from recsys.tables import Catalog, FloatArray, ItemVectors


class FittedTexts(NamedTuple):
    """The vectors of every item, and what encodes further texts alike; None where the vectors are one's own."""

    vectors: ItemVectors
    encoder: TextEncoder | None


def fit_texts(catalog: Catalog, config: EmbedConfig, *, seed: int) -> FittedTexts:
    """The text vectors of every item, as the configuration says: one's own file, or an encoder over its texts.

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
    transformer = TransformerEncoder(config.model, batch=config.batch, fields=fields)
    return FittedTexts(ItemVectors(catalog.item_ids, transformer.encode(texts)), transformer)


def text_vectors(catalog: Catalog, config: EmbedConfig, *, seed: int) -> ItemVectors:
    """The vectors of `fit_texts` alone."""
    return fit_texts(catalog, config, seed=seed).vectors


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


def tfidf_vectors(texts: Sequence[str], *, dimensions: int, seed: int) -> FloatArray:
    """TF-IDF over words and word pairs, reduced by truncated SVD; see `recsys.embeddings.encoder.TfidfEncoder`.

    Returns:
        float32 [N, D], unit rows, D = `dimensions` or the number of features where those are fewer; an item without
        known words gets a zero row.
    """
    return TfidfEncoder.fit(texts, dimensions=dimensions, seed=seed).vectors


def read_vectors(path: Path, catalog: Catalog) -> ItemVectors:
    """One's own vectors from parquet (item_id, embedding), in catalogue order; other items in it are left out.

    Raises:
        DataError: the file is missing or no such table, or items of the catalogue are not in it.
    """
    if not path.is_file():
        raise DataError(f"embed.vectors: {path} does not exist; give a parquet file of item_id and embedding")
    try:
        given = ItemVectors.load(path)
    except (OSError, ValueError) as error:  # pyarrow's words for what is no parquet
        raise DataError(f"embed.vectors: {path} is no parquet table of item_id and embedding") from error
    positions = {item_id: row for row, item_id in enumerate(given.item_ids)}
    missing = [item_id for item_id in catalog.item_ids if item_id not in positions]
    if missing:
        raise DataError(
            f"embed.vectors: {path.name} has no vector for {len(missing)} of {len(catalog)} items, the first is "
            f"{missing[0]!r}; give every item of the catalogue one"
        )
    rows = np.array([positions[item_id] for item_id in catalog.item_ids], dtype=np.int64)
    return ItemVectors(catalog.item_ids, given.vectors[rows])
