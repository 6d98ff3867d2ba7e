import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.encoder import TfidfEncoder
from recsys.embeddings.text import fit_texts, item_texts
from recsys.errors import ConfigError, DataError, DependencyError
from recsys.tables import Catalog, ItemVectors

CATALOG = Catalog(
    pl.DataFrame(
        {
            "item_id": ["1", "2", "3", "4"],
            "title": ["red lip gloss", "red lip balm", "steel hair brush", None],
            "brand": ["Ada", None, "Bo", None],
            "price": [1.0, 2.0, 3.0, 4.0],
        }
    )
)


def test_texts_join_what_is_there() -> None:
    assert item_texts(CATALOG) == ["red lip gloss. Ada", "red lip balm", "steel hair brush. Bo", ""]
    assert item_texts(CATALOG, ["brand"]) == ["Ada", "", "Bo", ""]
    assert item_texts(Catalog(pl.DataFrame({"item_id": ["1", "2"]}))) == ["", ""]


def test_an_unknown_field_is_refused_with_those_known() -> None:
    with pytest.raises(ConfigError, match=r"'price' is no text column of the catalogue; it has: title, brand"):
        fit_texts(CATALOG, EmbedConfig(fields=("price",)), seed=0)


def test_similar_texts_have_similar_vectors_and_an_empty_text_has_one() -> None:
    vectors = fit_texts(CATALOG, EmbedConfig(), seed=0).vectors
    cosines = vectors.vectors @ vectors.vectors.T
    assert vectors.item_ids == ["1", "2", "3", "4"]
    assert vectors.vectors.dtype == np.float32
    assert cosines[0, 1] > cosines[0, 2]
    assert np.isfinite(vectors.vectors).all()


def texts(count: int) -> list[str]:
    generator = np.random.default_rng(0)
    words = [f"word{n}" for n in range(60)]
    return [" ".join(generator.choice(words, size=6)) for _ in range(count)]


def test_tfidf_is_reduced_to_unit_rows_of_the_dimensions_wanted_and_repeats() -> None:
    vectors = TfidfEncoder.fit(texts(150), dimensions=8, seed=0).vectors
    assert vectors.shape == (150, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors, TfidfEncoder.fit(texts(150), dimensions=8, seed=0).vectors)


@pytest.mark.parametrize("few", [["one word"], ["", ""], ["same same", "same same"], ["a b", "!"], ["日本 語", "日本"]])
def test_catalogues_with_fewer_features_than_dimensions_get_finite_vectors(few: list[str]) -> None:
    vectors = TfidfEncoder.fit(few, dimensions=128, seed=0).vectors
    assert len(vectors) == len(few)
    assert vectors.shape[1] >= 1
    assert np.isfinite(vectors).all()


def test_given_vectors_are_put_in_catalogue_order_and_ids_become_strings(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    values = [[float(n), 0.5] for n in (9, 4, 3, 2, 1)]
    for ids in ([9, 4, 3, 2, 1], [9.0, 4.0, 3.0, 2.0, 1.0], ["9", "4", " 3", "2", "1"]):
        pq.write_table(pa.table({"item_id": ids, "embedding": values}), path)
        vectors = fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0).vectors
        assert vectors.item_ids == CATALOG.item_ids
        np.testing.assert_array_equal(vectors.vectors[:, 0], [1, 2, 3, 4])


def test_given_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    with pytest.raises(DataError, match="does not exist"):
        fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0)
    ItemVectors(["1", "3"], np.ones((2, 3), dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=r"no vector for 2 of 4 items, the first is '2'"):
        fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0)
    pq.write_table(pa.table({"item_id": ["1", "2"], "embedding": [[1.0], [1.0, 2.0]]}), path)
    with pytest.raises(DataError, match="the same number of values"):
        fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0)
    pq.write_table(pa.table({"item_id": ["1", "2", "1"], "embedding": [[1.0], [2.0], [3.0]]}), path)
    with pytest.raises(DataError, match=r"2 vectors for item '1', and 3 rows for 2 items"):
        fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0)
    pq.write_table(pa.table({"item_id": [1.0, 2.5], "embedding": [[1.0], [2.0]]}), path)
    with pytest.raises(DataError, match=r"row 2 has no item id that is text or a whole number: 2\.5"):
        fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0)
    path.write_text("not parquet", encoding="utf-8")
    with pytest.raises(DataError, match="no parquet table"):
        fit_texts(CATALOG, EmbedConfig(vectors=path), seed=0)


def test_without_sentence_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DependencyError, match=r"pip install recsys\[text\]"):
        fit_texts(CATALOG, EmbedConfig(encoder="sentence-transformers"), seed=0)


def test_a_saved_sentence_transformer_gives_unit_vectors(tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers", reason="the extra `text` is not installed")
    models = package.models
    words = models.BoW(vocab=["red", "lip", "gloss", "balm", "steel", "hair", "brush"])
    package.SentenceTransformer(modules=[words]).save(str(tmp_path / "model"))
    config = EmbedConfig(encoder="sentence-transformers", model=str(tmp_path / "model"), fields=("title",))
    vectors = fit_texts(CATALOG, config, seed=0).vectors.vectors
    np.testing.assert_allclose(np.linalg.norm(vectors[:3], axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
