"""Run by torchrun in test_distributed, and by the tests in one process: finetunes a tiny model without dropout.

Writes the model to FOLDER/out and, for every process, its metrics and how often it validated to FOLDER/RANK.json.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.llm.config import FinetuneConfig
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.llm.storage import LanguageModel
from tests.llm.fakes import SCRATCH, TITLES, semantic_ids
from tests.training.trainings import Killer

STILL = {"dropout": 0.0}


class Metrics(Killer):
    """Keeps the metrics as (name, step, value); raises before event number `at`, as a kill would stop a training."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(at)
        self.values: list[tuple[str, int, float]] = []

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        super().log(values, step=step)
        self.values += [(name, step, value) for name, value in values.items()]


def main(folder: Path, items: str, accumulation: int, kill_at: int | None = None) -> None:
    examples = [Example("sequential", history=tuple((i + j) % 6 for j in range(2 + i % 5))) for i in range(200)]
    examples += [Example("item_to_id", item=i % 6, text=TITLES[i % 6]) for i in range(60)]
    codebooks = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    data = FinetuneData(examples, TITLES, semantic_ids(), codebooks, InstructConfig())
    training = {"epochs": 3, "learning_rate": 2e-3, "batch_tokens": 128, "accumulation": accumulation}
    config = FinetuneConfig.model_validate(
        {"scratch": SCRATCH.model_copy(update=STILL), "items": items, "training": training, "lora": training | STILL}
        | {"distillation": 0.5, "item_dropout": 0.0, "checkpoint_steps": 2, "precision": "fp32"}
    )
    validations: list[float] = []

    def validate(model: LanguageModel) -> float:
        validations.append(sum(float(p.detach().abs().sum()) for p in model.model.parameters()))
        return validations[-1]

    tracker = Metrics(kill_at)
    finetune(data, config, out=folder / "out", validate=validate, seed=0, work=folder / "work", tracker=tracker)
    found = {"metrics": tracker.values, "validations": len(validations), "events": tracker.events}
    (folder / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *map(int, sys.argv[4:]))
