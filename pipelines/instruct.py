"""The instruct stage: write instruction examples from training histories and the catalogue.

Reads 01_dataset; writes `instructions.parquet`.
"""

from __future__ import annotations

from collections import Counter

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.instructions.examples import save_examples
from recsys.instructions.tasks import TaskSource, make_examples
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    histories = training_histories(dataset.interactions, dataset.catalog)
    examples = make_examples(TaskSource(dataset.catalog, histories, config.prepare.max_history), config.instruct)
    save_examples(examples, dataset.catalog, run.out / "instructions.parquet")
    run.note(**Counter(example.task for example in examples))
