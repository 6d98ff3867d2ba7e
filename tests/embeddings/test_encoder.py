"""A text encoder comes back from disk as it was fitted, and encodes texts that it never saw."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.encoder import TextEncoder, TfidfEncoder, TransformerEncoder, load_text_encoder
from recsys.embeddings.text import fit_texts, item_texts
from recsys.errors import ArtifactError
from recsys.files import write_json
from recsys.tables import Catalog, FloatArray


def texts(count: int) -> list[str]:
    generator = np.random.default_rng(0)
    words = [f"word{n}" for n in range(60)]
    return [" ".join(generator.choice(words, size=6)) for _ in range(count)]


def reloaded(encoder: TextEncoder, folder: Path) -> TextEncoder:
    encoder.save(folder)
    return load_text_encoder(folder)


@pytest.mark.parametrize("given", [texts(150), texts(20), ["one word"], ["", ""], ["日本 語", "ÀÉ İ ß"]])
def test_the_texts_fitted_on_get_the_same_vectors_again(given: list[str], tmp_path: Path) -> None:
    encoder, vectors = TfidfEncoder.fit(given, dimensions=8, seed=0)
    np.testing.assert_array_equal(vectors, TfidfEncoder.fit(given, dimensions=8, seed=0).vectors)
    again = reloaded(encoder, tmp_path)
    np.testing.assert_allclose(again.encode(given), vectors, rtol=0, atol=1e-6)
    for text, vector in zip(given, again.encode(given), strict=True):
        np.testing.assert_array_equal(again.encode([text])[0], vector)
    assert encoder.num_dimensions == vectors.shape[1]


def test_a_new_text_lies_near_those_it_shares_words_with(tmp_path: Path) -> None:
    given = [f"red lip gloss {n}" for n in range(60)] + [f"steel hair brush {n}" for n in range(60)]
    encoder = reloaded(TfidfEncoder.fit(given, dimensions=4, seed=0).encoder, tmp_path)
    new, lips, brush = encoder.encode(["GLOSS for a lip", given[0], given[100]])
    assert new @ lips > 0.9
    assert new @ brush < 0.1
    unknown = encoder.encode(["zebra"])
    assert unknown.dtype == np.float32
    np.testing.assert_array_equal(unknown, np.zeros((1, 4)))


def test_features_are_terms_of_two_texts_or_more_with_damped_frequencies() -> None:
    given = [f"common word{n}" for n in range(60)] + ["common once twice twice"] * 2 + ["rare"] + ["common"] * 60
    encoder, vectors = TfidfEncoder.fit(given, dimensions=1000, seed=0)
    assert set(encoder.terms) == {"common", "common once", "once", "once twice", "twice", "twice twice"}
    weights = dict(zip(encoder.terms, vectors[60], strict=True))
    assert weights["twice"] / weights["once"] == pytest.approx(1 + np.log(2), rel=1e-5)


@pytest.mark.parametrize(("fields", "wanted"), [((), ("title", "brand")), (("brand",), ("brand",))])
def test_a_new_item_s_text_is_joined_of_the_same_fields(
    fields: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path
) -> None:
    catalog = Catalog(pl.DataFrame({"item_id": ["1", "2"], "title": ["red pan", "lid"], "brand": ["Ada", "Bo"]}))
    vectors, fitted = fit_texts(catalog, EmbedConfig(fields=fields), seed=0)
    assert fitted is not None
    encoder = reloaded(fitted, tmp_path)
    assert encoder.fields == wanted
    new = Catalog(pl.DataFrame({"item_id": ["3"], "brand": ["Bo"], "title": ["lid"]}))
    np.testing.assert_array_equal(encoder.encode(item_texts(new, encoder.fields))[0], vectors.vectors[1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "text_encoder.safetensors").unlink(),
        lambda folder: (folder / "text_encoder.safetensors").write_bytes(b"x" * 20),
        lambda folder: (folder / "text_encoder.json").unlink(),
        lambda folder: edit(folder, version=2),
        lambda folder: edit(folder, kind="word2vec"),
        lambda folder: edit(folder, terms=["one"]),
        lambda folder: edit(folder, terms=3),
    ],
)
def test_a_damaged_encoder_is_refused(damage: Any, tmp_path: Path) -> None:
    TfidfEncoder.fit(texts(20), dimensions=8, seed=0).encoder.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=r"text_encoder|text encoder"):
        load_text_encoder(tmp_path)


def edit(folder: Path, **change: object) -> None:
    path = folder / "text_encoder.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | change)


class FakeTransformer:
    """Encodes a text by its length; `loaded` names the models that were loaded."""

    loaded: list[str] = []  # noqa: RUF012

    def __init__(self, name: str, *, trust_remote_code: bool) -> None:
        assert not trust_remote_code
        self.loaded.append(name)

    def encode(self, given: Sequence[str], **options: object) -> FloatArray:
        return np.array([[len(text), 1] for text in given], dtype=np.float32)

    def save_pretrained(self, path: str, **options: object) -> None:
        assert options["safe_serialization"]
        Path(path).mkdir()
        (Path(path) / "modules.json").write_text("[]", encoding="utf-8")


@pytest.fixture
def _transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTransformer, "loaded", [])
    module = SimpleNamespace(SentenceTransformer=FakeTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


@pytest.mark.usefixtures("_transformers")
def test_a_transformer_with_a_name_is_saved_by_name_and_loaded_when_first_used(tmp_path: Path) -> None:
    encoder = reloaded(TransformerEncoder("some/model", batch_size=4, fields=["title"]), tmp_path)
    assert FakeTransformer.loaded == []
    assert encoder.fields == ("title",)
    assert encoder.encode(["four"])[0, 0] == 4
    assert FakeTransformer.loaded == ["some/model"]


@pytest.mark.usefixtures("_transformers")
def test_a_transformer_in_a_folder_is_copied(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    encoder = reloaded(TransformerEncoder(str(tmp_path / "mine"), batch_size=4), tmp_path / "out")
    encoder.encode(["four"])
    assert FakeTransformer.loaded == [str(tmp_path / "mine"), str(tmp_path / "out" / "model")]
    assert str(tmp_path) not in (tmp_path / "out" / "text_encoder.json").read_text(encoding="utf-8")
