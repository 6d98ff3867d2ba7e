"""A circle of twelve items that every user walks, and small models trained on it: the next item is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recsys.baselines.config import SasrecConfig
from recsys.baselines.sasrec import Sasrec
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import queries, training_histories
from recsys.embeddings.text import item_texts
from recsys.instructions.config import InstructConfig
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import make_examples
from recsys.llm.config import FinetuneConfig, LoraConfig, ScratchConfig, TrainingConfig
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.llm.storage import load_language_model
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.generative import GenerativeRanker
from recsys.ranking.recommender import FittedRecommender
from recsys.ranking.validation import LanguageModelValidator, ValidationUsers
from recsys.tables import TEST, TRAIN, VALIDATION, Catalog, FloatArray, Interactions, SemanticIds

NUM_ITEMS = 12
SCRATCH = ScratchConfig(
    hidden_size=32, num_layers=2, num_heads=2, head_dim=16, intermediate_size=48, vocab_size=300, dropout=0
)
CONFIG = FinetuneConfig(
    scratch=SCRATCH,
    training=TrainingConfig(epochs=12, learning_rate=1e-2, batch_tokens=512, validate_every=4),
    lora=LoraConfig(epochs=1, batch_tokens=512),
)
# One vector an item, and scores of whole items. Validated at the end alone: the first epoch that ranks all validation
# users rightly need not know the circle from one item.
READING_ITEMS = CONFIG.model_copy(
    update={"items": "sum", "training": CONFIG.training.model_copy(update={"epochs": 30, "validate_every": 30})}
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


def finetuned(
    dataset: Dataset,
    semantic_ids: SemanticIds,
    codebooks: FloatArray = CODEBOOKS,
    *,
    folder: Path,
    config: FinetuneConfig = CONFIG,
) -> Path:
    """The folder, where a language model that was trained on the semantic ids has been written."""
    training, instruct = training_histories(dataset.interactions, dataset.catalog), InstructConfig()
    users = ValidationUsers.sample(
        queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=20),
        users=config.validation_users,
        seed=0,
        exclude_seen=True,
    )
    data = FinetuneData(
        examples=make_examples(TaskSource(dataset.catalog, training), instruct),
        texts=item_texts(dataset.catalog),
        semantic_ids=semantic_ids,
        codebooks=codebooks,
        instruct=instruct,
    )
    folder.mkdir(parents=True, exist_ok=True)
    finetune(data, config, out=folder, validate=LanguageModelValidator(users, semantic_ids), seed=0)
    return folder


def generative_recommender(
    dataset: Dataset, semantic_ids: SemanticIds, folder: Path, *, max_history: int = 20
) -> FittedRecommender:
    """Answers by the language model of a folder alone."""
    ranker = GenerativeRanker(load_language_model(folder), semantic_ids)
    ensemble = Ensemble({"generative": ranker}, sources=["generative"], fusions={}, depth=1)
    return FittedRecommender(dataset.catalog, ensemble, max_history=max_history, exclude_seen=True)


def sasrec(dataset: Dataset) -> Sasrec:
    """Trained until it knows the circle."""
    config = SasrecConfig(
        hidden_size=16, num_heads=2, num_layers=1, dropout=0, max_length=10, epochs=30, batch_tokens=100
    )
    return fit_sasrec(training_histories(dataset.interactions, dataset.catalog), NUM_ITEMS, config, seed=0)


def next_of(history: list[str]) -> str:
    return f"item {(int(history[-1].split()[1]) + 1) % NUM_ITEMS}"
