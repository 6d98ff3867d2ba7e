"""Finetuning from scratch: the full training, then LoRA, each with metrics and checkpoints of its own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.llm.config import FinetuneConfig, LoraConfig, TrainingConfig
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.tracking import NullTracker
from tests.llm.fakes import SCRATCH, TITLES, semantic_ids


class Recorder(NullTracker):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.names |= set(values)


def test_both_trainings_have_metrics_and_checkpoints_of_their_own(tmp_path: Path) -> None:
    examples = [Example("sequential", history=tuple((i + j) % 6 for j in range(4))) for i in range(6)]
    codebooks = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    data = FinetuneData(examples, TITLES, semantic_ids(), codebooks, InstructConfig())
    config = FinetuneConfig(scratch=SCRATCH, training=TrainingConfig(epochs=1), lora=LoraConfig(epochs=1))
    recorder, scores = Recorder(), iter([0.1, 0.2, 0.3, 0.4])
    found = finetune(
        data,
        config,
        out=tmp_path / "out",
        validate=lambda _: next(scores),
        seed=0,
        work=tmp_path / "work",
        tracker=recorder,
    )
    assert found == (0.1, 0.3, 0.4), "before any training, before LoRA, and the best after"
    assert {name.partition("/")[0] for name in recorder.names} == {"language_model", "lora"}
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"language_model", "lora"}
