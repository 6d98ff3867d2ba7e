"""A small finished run and interactions of a later period in which other items follow: what tests of refreshes share.

Items are numbered, and stand in a circle. Early, the next item is the one after; later it is `LATER` places on.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipelines import FOLDERS
from pipelines.config import CONFIG, RunConfig, dump_yaml, load_config
from pipelines.runner import run_stages
from recsys.artifacts import RunDirectory
from recsys.files import write_text
from recsys.tracking import NullTracker

ITEMS, USERS, NEW_USERS = 24, 90, 12
EARLY, LATER = 1, 7
DAY = 86_400
START, PERIOD = 1_600_000_000, 400 * DAY  # of the early period; the later one follows

SETTINGS = {
    "prepare.kind": "table",
    "embed.collaborative": "false",
    "embed.dimensions": 12,
    "tokenize.kind": "discrete",
    "tokenize.num_levels": 2,
    "tokenize.codebook_size": 12,
    "tokenize.latent_dim": 8,
    "tokenize.epochs": 10,
    "tokenize.collaborative_weight": 0,
    "finetune.scratch.hidden_size": 32,
    "finetune.scratch.num_layers": 1,
    "finetune.scratch.num_heads": 2,
    "finetune.scratch.head_dim": 16,
    "finetune.scratch.intermediate_size": 64,
    "finetune.scratch.vocab_size": 300,
    "finetune.scratch.dropout": 0,
    "finetune.training.epochs": 16,
    "finetune.training.learning_rate": 0.01,
    "finetune.training.validate_every": 8,
    "finetune.training.batch_tokens": 512,
    "finetune.lora.epochs": 1,
    "finetune.validation_users": 40,
    "finetune.checkpoint_steps": 3,
    "instruct.weights.item_to_id": 0,
    "instruct.weights.id_to_item": 0,
    "recommend.num_beams": 20,
    "recommend.k": 10,
    "recommend.tuning_users": 20,
    "recommend.fusion.grid": 4,
    "recommend.fusion.sources": "[generative, generative-item-scored]",
    "refresh.epochs": 12,
    "refresh.learning_rate": 0.01,
    "refresh.batch_tokens": 256,
    "evaluate.cutoffs": "[1, 5, 10]",
    "evaluate.num_resamples": 200,
    "evaluate.num_examples": 1,
}


def write_tables(folder: Path) -> None:
    """`early/interactions.csv` and `early/items.csv`, which a run imports, and `later.csv`."""
    generator = np.random.default_rng(0)
    (folder / "early").mkdir(parents=True)
    titles = [f"thing {word} {number}" for number, word in enumerate(("red", "blue", "green", "grey") * (ITEMS // 4))]
    pl.DataFrame({"item_id": [item(n) for n in range(ITEMS)], "title": titles}).write_csv(folder / "early/items.csv")
    early = [_walk(f"u{user}", EARLY, 9, START, generator) for user in range(USERS)]
    pl.concat(early).write_csv(folder / "early" / "interactions.csv")
    goes_on = [*(f"u{user}" for user in range(USERS - 30)), *(f"n{user}" for user in range(NEW_USERS))]
    later = [_walk(user, LATER, 7, START + PERIOD, generator) for user in goes_on]
    pl.concat(later).write_csv(folder / "later.csv")


def item(number: int) -> str:
    return f"i{number % ITEMS}"


def _walk(user: str, step: int, length: int, start: int, generator: np.random.Generator) -> pl.DataFrame:
    first, offset = int(generator.integers(ITEMS)), int(generator.integers(300)) * DAY
    items = [item(first + step * place) for place in range(length)]
    times = [start + offset + place * DAY for place in range(length)]
    return pl.DataFrame({"user_id": [user] * length, "item_id": items, "timestamp": times})


def parent_config(folder: Path, *settings: str) -> RunConfig:
    """The configuration of a small run on the early period."""
    values = SETTINGS | {"prepare.source": folder / "early"}
    return load_config("demo", [*(f"{key}={value}" for key, value in values.items()), *settings])


def finish(folder: Path, *settings: str, stages: Sequence[str] | None = None) -> RunDirectory:
    """A run on the early period as far as its language model, or of some stages, in `folder/parent`."""
    config, directory = parent_config(folder, *settings), RunDirectory(folder / "parent", FOLDERS)
    chosen = stages or ("prepare", "embed", "tokenize", "instruct", "finetune")
    with directory.lock():
        write_text(directory.path / CONFIG, dump_yaml(config))
        run_stages(config, directory, config.stages, selected=chosen, tracker=NullTracker())
    return directory
