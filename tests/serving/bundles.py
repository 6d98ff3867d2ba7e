"""Bundles without models: files of the right names and item ids, for tests that never load an engine of theirs."""

from pathlib import Path

import numpy as np
import polars as pl

from recsys.files import write_json, write_text
from recsys.ranking.config import RecommendConfig
from recsys.tables import ItemVectors, SemanticIds
from recsys.tokenization.config import TokenizeConfig
from serving.bundle.bundle import Bundle, Origin, write_bundle
from serving.bundle.golden import make_golden
from serving.bundle.manifest import BundleSettings, EmbedMetadata
from tests.serving.fakes import FakeEngine

ITEMS = [f"i{n}" for n in range(30)]  # those of a FakeEngine


def origin(*, both: bool = True, seed: int = 0, data: str = "d0") -> Origin:
    """Settings of one route or both."""
    settings = BundleSettings(
        routes=("discrete", "continuous") if both else ("discrete",),
        max_history=20,
        exclude_seen=True,
        training_repeats=3,
        training_interactions=900,
        seed=seed,
        recommend=RecommendConfig(),
        tokenize=TokenizeConfig(),
        embed=EmbedMetadata(encoder="tfidf", text_dimensions=4),
    )
    return Origin(settings, {"prepare": data}, {"recsys": "0"})


def fill(folder: Path, *, both: bool = True, ndcg: float | None = 0.06) -> None:
    """Write every file that a bundle must have, and the metrics where there are any."""
    pl.DataFrame({"item_id": ITEMS, "title": ITEMS}).write_parquet(folder / "catalog.parquet")
    pl.DataFrame({"item_id": ITEMS, "interactions": range(30)}).write_parquet(folder / "counts.parquet")
    for name in ("discrete", "language_model"):
        (folder / name).mkdir()
    codes = np.array([[n // 8, n % 8] for n in range(30)])
    SemanticIds(ITEMS, codes, 8).save(folder / "discrete" / "semantic_ids.parquet")
    write_text(folder / "discrete" / "tokenizer.json", "{}\n")
    write_text(folder / "language_model" / "language_model.json", "{}\n")
    if ndcg is not None:
        estimate = {"value": ndcg, "low": ndcg - 0.005, "high": ndcg + 0.005}
        metrics = {"hr@10": estimate, "ndcg@10": estimate}
        made = {"system": "fused", "policy": "seen-left-out", "users": 9, "confidence": 0.95, "metrics": metrics}
        write_json(folder / "metrics.json", made)
    if not both:
        return
    for name in ("continuous", "preference", "index"):
        (folder / name).mkdir()
    ItemVectors(ITEMS, np.ones((30, 2), dtype=np.float32)).save(folder / "continuous" / "latents.parquet")
    for name in ("continuous/continuous.json", "preference/preference.json", "index/index.json", "fusion.json"):
        write_text(folder / name, "{}\n")


def fake_bundle(out: Path, *, seed: int = 0, ndcg: float | None = 0.06, data: str = "d0") -> Bundle:
    """A bundle whose golden answers are those of a FakeEngine; another seed is another bundle."""
    return write_bundle(
        out,
        origin(seed=seed, data=data),
        lambda folder: fill(folder, ndcg=ndcg),
        answer=lambda folder: make_golden(FakeEngine(), ITEMS).save(folder),
    )
