"""The instruct stage: write instruction examples from training histories and the catalogue.

Reads 01_dataset; writes `instructions.parquet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories, training_intentions
from recsys.instructions.examples import Example, save_examples
from recsys.instructions.source import TaskSource, user_preferences
from recsys.instructions.tasks import make_examples
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    examples = training_examples(dataset, config)
    save_examples(examples, dataset.catalog, run.out / "instructions.parquet")
    run.note(**Counter(example.task for example in examples))
    sources = text_sources(examples)
    if sources:
        run.note(text_sources=sources)


def training_examples(dataset: Dataset, config: RunConfig) -> list[Example]:
    """Examples of all tasks that the configuration gives a weight, of training interactions alone."""
    histories = training_histories(dataset.interactions, dataset.catalog)
    source = TaskSource(
        dataset.catalog,
        histories,
        config.prepare.max_history,
        training_intentions(dataset.interactions),
        user_preferences(dataset.users, histories),
    )
    return make_examples(source, config.instruct)


def text_sources(examples: Iterable[Example]) -> dict[str, dict[str, int]]:
    """Task -> source of its texts about users -> examples."""
    counts = Counter((example.task, example.source) for example in examples if example.source)
    found: dict[str, dict[str, int]] = {}
    for (task, source), number in counts.items():
        found.setdefault(task, {})[source] = number
    return found
