"""Item texts -> vectors: TF-IDF with truncated SVD, a sentence-transformers model, or vectors of one's own.

Reads a `Catalog`, and a parquet file (item_id, embedding) for one's own vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.embeddings.config import EmbedConfig
from recsys.errors import ConfigError, DataError, DependencyError
from recsys.tables import Catalog, FloatArray, ItemVectors


def text_vectors(catalog: Catalog, config: EmbedConfig, *, seed: int) -> ItemVectors:
    """The text vectors of every item, as the configuration says: one's own file, or an encoder over its texts.

    Raises:
        ConfigError: `fields` names something that is no text column.
        DataError: the file lacks items, or is no table of vectors.
        DependencyError: sentence-transformers is needed and not installed.
    """
    if config.vectors is not None:
        return read_vectors(config.vectors, catalog)
    texts = item_texts(catalog, config.fields)
    if config.encoder == "tfidf":
        return ItemVectors(catalog.item_ids, tfidf_vectors(texts, dimensions=config.dimensions, seed=seed))
    return ItemVectors(catalog.item_ids, transformer_vectors(texts, model=config.model, batch=config.batch))


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
    """TF-IDF over words and word pairs, reduced by truncated SVD (latent semantic analysis).

    Returns:
        float32 [N, D], unit rows, D = `dimensions` or the number of features where those are fewer; an item without
        known words gets a zero row.
    """
    try:
        vectorizer = TfidfVectorizer(
            sublinear_tf=True, ngram_range=(1, 2), min_df=2 if len(texts) > 100 else 1, dtype=np.float32
        )
        features = csr_matrix(vectorizer.fit_transform(texts))
    except ValueError:  # scikit-learn's word for texts without a single word
        return np.zeros((len(texts), 1), dtype=np.float32)
    if features.shape[1] <= dimensions:
        return features.toarray()
    reduced = TruncatedSVD(dimensions, algorithm="randomized", random_state=seed).fit_transform(features)
    norms = np.linalg.norm(reduced, axis=1, keepdims=True)
    return np.asarray(reduced / np.maximum(norms, 1e-12), dtype=np.float32)


def transformer_vectors(texts: Sequence[str], *, model: str, batch: int) -> FloatArray:
    """Unit vectors float32 [N, D] from a sentence-transformers model, by name or folder.

    Raises:
        DependencyError: sentence-transformers is not installed.
        ConfigError: no such model can be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DependencyError(
            "embed.encoder=sentence-transformers needs a package that is not installed: pip install recsys[text]"
        ) from error
    try:
        encoder = SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"embed.model: {model!r} is neither a folder nor a model that can be fetched") from error
    vectors = encoder.encode(list(texts), batch_size=batch, normalize_embeddings=True, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32)


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
