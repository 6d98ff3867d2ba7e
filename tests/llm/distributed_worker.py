"""Run by torchrun in test_distributed: trains on a circle of items, each process writes its weights and its losses."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save_file

from recsys.instructions.examples import Example
from recsys.llm.collation import epoch_batches
from recsys.llm.config import TrainingConfig
from recsys.llm.dropout import residual_dropout
from recsys.llm.finetuning import training_plan
from recsys.llm.heads import LanguageModelLoss
from recsys.training.checkpoints import Fingerprint
from recsys.training.plan import Run
from recsys.training.trainer import Trainer
from tests.llm.fakes import language_model, renderer

T = TypeVar("T")


class Losses:
    """A tracker that keeps the losses."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.values += [v for name, v in values.items() if name.endswith("/loss")]

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        return iterable


def main(folder: Path) -> None:
    made = language_model()
    module = LanguageModelLoss(made.model, made.layout)
    rows = renderer(made)
    examples = {"sequential": [Example("sequential", history=tuple((i + j) % 6 for j in range(5))) for i in range(120)]}
    losses = Losses()
    config = TrainingConfig(epochs=6, learning_rate=5e-3, batch_tokens=128)
    trainer = Trainer(
        module,
        lambda epoch: epoch_batches(examples, rows, {"sequential": 1}, batch_tokens=128, seed=0, epoch=epoch),
        training_plan(config, bf16=False, checkpoint_steps=10),
        run=Run("test", 0, folder / "work", losses),
        fingerprint=Fingerprint.of("test", 0, config),
    )
    with residual_dropout(made.model, 0.1):
        trainer.train()
    rank = os.environ.get("RANK", "0")
    save_file({n: p.detach().contiguous() for n, p in module.named_parameters()}, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(losses.values), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
