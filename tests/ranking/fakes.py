"""A circle of twelve items that every user walks, and small models trained on it: the next item is known."""

from __future__ import annotations

import numpy as np
import polars as pl

from recsys.baselines.config import SasrecConfig
from recsys.baselines.sasrec import Sasrec
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.llm.config import FinetuneConfig, LoraConfig, ScratchConfig, TrainingConfig
from recsys.tables import TEST, TRAIN, VALIDATION, Catalog, Interactions, SemanticIds

NUM_ITEMS = 12
SCRATCH = ScratchConfig(hidden=32, layers=2, heads=2, head_dim=16, intermediate=48, vocabulary=300, dropout=0)
CONFIG = FinetuneConfig(
    scratch=SCRATCH,
    training=TrainingConfig(epochs=12, lr=1e-2, batch_tokens=512, validate_every=4),
    lora=LoraConfig(epochs=1, batch_tokens=512),
)
CODEBOOKS = np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)


def cycle() -> Dataset:
    """Every user walks the same circle of twelve items, so that the next one is known by construction."""
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"item {(user + step) % NUM_ITEMS}",
            "timestamp": step,
            "split": {5: VALIDATION, 6: TEST}.get(step, TRAIN),
        }
        for user in range(60)
        for step in range(7)
    ]
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "split": pl.Int8}
    items = {
        "item_id": [f"item {i}" for i in range(NUM_ITEMS)],
        "title": [f"Thing {i}" for i in range(NUM_ITEMS)],
        "category": ["even" if i % 2 == 0 else "odd" for i in range(NUM_ITEMS)],
    }
    return Dataset(Interactions(pl.DataFrame(rows, schema=schema)), Catalog(pl.DataFrame(items)), {})


def ids(dataset: Dataset) -> SemanticIds:
    codes = np.array([[i // 4, i % 4] for i in range(NUM_ITEMS)])
    return SemanticIds(dataset.catalog.item_ids, codes, 4)


def sasrec(dataset: Dataset) -> Sasrec:
    """Trained until it knows the circle."""
    config = SasrecConfig(dim=16, heads=2, layers=1, dropout=0, max_length=10, epochs=30, batch_tokens=100)
    return fit_sasrec(training_histories(dataset.interactions, dataset.catalog), NUM_ITEMS, config, seed=0)


def next_of(history: list[str]) -> str:
    return f"item {(int(history[-1].split()[1]) + 1) % NUM_ITEMS}"
