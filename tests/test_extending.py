"""The examples of docs/extending.md are short, run as written, and fulfil what the stages need of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recsys
from recsys.data.sources import SOURCES
from recsys.ranking.registry import RANKERS
from recsys.retrieval.kinds import KINDS
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.registry import QUANTIZERS, fit_tokenizer, load_tokenizer

MAX_LINES = 40
PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCK = re.compile(r"^## (.*?)$.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)
EXAMPLES: dict[str, str] = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What an example registers is gone after its test."""
    monkeypatch.chdir(tmp_path)
    registries: tuple[dict[str, Any], ...] = (SOURCES, QUANTIZERS, KINDS, RANKERS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def run(title: str) -> None:
    exec(compile(EXAMPLES[title], str(PAGE), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_short(title: str) -> None:
    assert len([line for line in EXAMPLES[title].splitlines() if line.strip()]) < MAX_LINES


def test_a_ranker_is_fitted_ranked_and_fused() -> None:
    run("A ranker")
    dataset = recsys.load_dataset(
        "synthetic", synthetic={"num_users": 80, "num_items": 60, "num_interactions": 900}, min_interactions=1
    )
    config = {
        "embed": {"dimensions": 8, "sasrec": {"hidden_size": 8, "epochs": 1}},
        "tokenize": {"kind": "continuous", "continuous": {"num_tokens": 1, "token_dim": 8, "epochs": 1}},
        "recommend": {"k": 5, "fusion": {"sources": ["sasrec", "markov-chain"]}},
    }
    recommender = recsys.Recommender(config).fit(dataset)
    assert {"popularity", "markov-chain", "fused"} <= set(recommender.rankings.sources)
    best = recommender.recommend(dataset.catalog.item_ids[:3], k=3)[0]
    assert best.source_scores.keys() <= {"sasrec", "markov-chain"}


def test_a_dataset_format_is_recognized_and_read(capsys: pytest.CaptureFixture[str]) -> None:
    run("A dataset format")
    assert "2 users" in capsys.readouterr().out


def test_a_quantizer_is_fitted_by_its_name_saved_and_loaded(tmp_path: Path) -> None:
    run("A quantizer")
    vectors = np.random.default_rng(0).standard_normal((400, 8), dtype=np.float32)
    config = TokenizeConfig(quantizer="residual-k-means", num_levels=3, codebook_size=8)
    tokenizer = fit_tokenizer(vectors, config, seed=0)
    item_ids = [f"item-{n}" for n in range(len(vectors))]
    ids = tokenizer.assign(vectors, item_ids)
    assert len(np.unique(ids.codes, axis=0)) == len(vectors)
    assert np.square(tokenizer.decode(tokenizer.encode(vectors)) - vectors).mean() < 0.5 * vectors.var()
    order = np.random.default_rng(1).permutation(len(vectors))
    shuffled = tokenizer.assign(vectors[order], [item_ids[row] for row in order])
    np.testing.assert_array_equal(shuffled.codes, ids.codes[order])
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    np.testing.assert_array_equal(loaded.assign(vectors, item_ids).codes, ids.codes)


def test_an_index_kind_is_built_tuned_and_searched(capsys: pytest.CaptureFixture[str]) -> None:
    run("An index kind")
    shown = capsys.readouterr().out
    assert "IVF51,SQfp16" in shown
    assert re.findall(r"\[ *(\d+)", shown) == ["0", "1", "2"]  # each vector is nearest to itself
