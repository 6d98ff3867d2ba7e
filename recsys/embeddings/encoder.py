"""Text encoders that can be saved, so that the texts of later items are encoded as those of the catalogue were.

Writes and reads a folder of `text_encoder.json` (kind, fields, vocabulary) and, for TF-IDF, `text_encoder.safetensors`
(inverse document frequencies, projection) or, for a transformer that is a folder, that model in `model/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.errors import ArtifactError, ConfigError, DependencyError
from recsys.files import read_json, write_json
from recsys.tables import FloatArray, unit_rows

_DESCRIPTION, _WEIGHTS, _MODEL = "text_encoder.json", "text_encoder.safetensors", "model"
_VERSION = 1
TFIDF, TRANSFORMER = "tfidf", "sentence-transformers"


class TextEncoder(Protocol):
    """Texts -> vectors; `fields` are the text columns that are joined to one text."""

    fields: tuple[str, ...]

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """float32 [N, D], unit rows; a text without known words gets a zero row."""

    def save(self, folder: Path) -> None:
        """Write the encoder into `folder`, which is created."""


class FittedTfidf(NamedTuple):
    """An encoder and the vectors [N, D] of the texts that it was fitted on."""

    encoder: TfidfEncoder
    vectors: FloatArray


class TfidfEncoder:
    """TF-IDF over words and word pairs, reduced by truncated SVD (latent semantic analysis).

    Args:
        terms: the vocabulary, in column order; empty where the texts had no words, and every vector is then [0].
        idf: float32 [F], of each term.
        projection: float32 [F, D]; None where the TF-IDF features are the vectors.
        fields: the text columns that are joined to one text.
    """

    def __init__(
        self, terms: Sequence[str], idf: FloatArray, projection: FloatArray | None, *, fields: Sequence[str] = ()
    ) -> None:
        self.terms, self.idf, self.projection, self.fields = list(terms), idf, projection, tuple(fields)

    @classmethod
    def fit(cls, texts: Sequence[str], *, dimensions: int, seed: int, fields: Sequence[str] = ()) -> FittedTfidf:
        """Fit to texts, D = `dimensions` or the number of features where those are fewer; `seed` is the SVD's."""
        vectorizer = _vectorizer(min_df=2 if len(texts) > 100 else 1)
        try:
            features = csr_matrix(vectorizer.fit_transform(texts))
        except ValueError:  # raised by scikit-learn for texts without a single word
            wordless = cls([], np.zeros(0, dtype=np.float32), None, fields=fields)
            return FittedTfidf(wordless, wordless.encode(texts))
        terms, idf = vectorizer.get_feature_names_out().tolist(), np.asarray(vectorizer.idf_, dtype=np.float32)
        if features.shape[1] <= dimensions:
            return FittedTfidf(cls(terms, idf, None, fields=fields), features.toarray())
        svd = TruncatedSVD(dimensions, algorithm="randomized", random_state=seed)
        reduced = svd.fit_transform(features)
        projection = np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        return FittedTfidf(cls(terms, idf, projection, fields=fields), unit_rows(reduced))

    def __repr__(self) -> str:
        return f"<TfidfEncoder ({len(self.terms)} terms -> {self.num_dimensions} dimensions)>"

    @property
    def num_dimensions(self) -> int:
        """D."""
        return max(len(self.terms), 1) if self.projection is None else int(self.projection.shape[1])

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """float32 [N, D]; a text that was fitted on gets the vector it got then, but for rounding."""
        if not self.terms:
            return np.zeros((len(texts), 1), dtype=np.float32)
        features = csr_matrix(self._vectorizer.transform(texts))
        return features.toarray() if self.projection is None else unit_rows(features @ self.projection)

    def save(self, folder: Path) -> None:
        """Write `text_encoder.json` and `text_encoder.safetensors` into `folder`, which is created."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"idf": self.idf} | ({} if self.projection is None else {"projection": self.projection})
        save_file(tensors, folder / _WEIGHTS)
        write_json(folder / _DESCRIPTION, _description(TFIDF, self.fields) | {"terms": self.terms})

    @classmethod
    def load(cls, folder: Path, description: dict[str, Any]) -> TfidfEncoder:
        """What `save` wrote, given the contents of its JSON file; see `load_text_encoder`."""
        tensors = load_file(folder / _WEIGHTS)
        terms, idf, projection = description["terms"], tensors["idf"], tensors.get("projection")
        if len(terms) != len(idf) or (projection is not None and len(projection) != len(idf)):
            raise ValueError(f"{len(terms)} terms do not fit {len(idf)} weights")
        return cls(terms, idf, projection, fields=description["fields"])

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        vectorizer = _vectorizer(vocabulary={term: column for column, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf
        return vectorizer


class TransformerEncoder:
    """A sentence-transformers model, by name or folder; loaded when first used."""

    def __init__(self, model: str, *, batch_size: int, fields: Sequence[str] = ()) -> None:
        self.model, self.batch_size, self.fields = model, batch_size, tuple(fields)

    def __repr__(self) -> str:
        return f"<TransformerEncoder ({self.model})>"

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors float32 [N, D].

        Raises:
            DependencyError: sentence-transformers is not installed.
            ConfigError: no such model can be loaded.
        """
        vectors = self._loaded.encode(
            list(texts), batch_size=self.batch_size, normalize_embeddings=True, convert_to_numpy=True
        )
        return np.asarray(vectors, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write `text_encoder.json`; a model in a local folder is copied, one with a name is downloaded when loaded."""
        folder.mkdir(parents=True, exist_ok=True)
        name: str | None = self.model
        if Path(self.model).is_dir():
            name = None
            self._loaded.save_pretrained(str(folder / _MODEL), create_model_card=False, safe_serialization=True)
        extra = {"model": name, "batch_size": self.batch_size}
        write_json(folder / _DESCRIPTION, _description(TRANSFORMER, self.fields) | extra)

    @classmethod
    def load(cls, folder: Path, description: dict[str, Any]) -> TransformerEncoder:
        """What `save` wrote, given the contents of its JSON file; see `load_text_encoder`."""
        model = description["model"] or str(folder / _MODEL)
        return cls(model, batch_size=int(description["batch_size"]), fields=description["fields"])

    @cached_property
    def _loaded(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise DependencyError(
                "embed.encoder=sentence-transformers needs a package that is not installed; pip install recsys[text]"
            ) from error
        try:
            return SentenceTransformer(self.model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"embed.model: {self.model!r} is neither a folder nor a model that can be downloaded; check the name"
            ) from error


_KINDS: dict[str, Callable[[Path, dict[str, Any]], TextEncoder]] = {
    TFIDF: TfidfEncoder.load,
    TRANSFORMER: TransformerEncoder.load,
}


def load_text_encoder(folder: Path) -> TextEncoder:
    """What `TextEncoder.save` wrote.

    Raises:
        ArtifactError: a file is missing, damaged or of another version.
    """
    description = read_json(folder / _DESCRIPTION)
    if description.get("version") != _VERSION or description.get("kind") not in _KINDS:
        raise ArtifactError(
            f"{folder / _DESCRIPTION} is no text encoder of version {_VERSION} (kinds are {', '.join(_KINDS)}); "
            "run `embed` again"
        )
    try:
        return _KINDS[description["kind"]](folder, description)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"the text encoder in {folder} cannot be read ({error}); run `embed` again") from error


def _description(kind: str, fields: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, "version": _VERSION, "fields": list(fields)}


def _vectorizer(*, min_df: int = 1, vocabulary: dict[str, int] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), min_df=min_df, dtype=np.float32, vocabulary=vocabulary
    )
