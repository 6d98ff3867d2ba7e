"""`recsys instruct RUN --show N`: examples as the language model reads them, under a template, with codes as tokens.

Reads 01_dataset, 03_tokens and 04_instructions of a run; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from recsys.artifacts import RunDirectory
from recsys.data.dataset import Dataset
from recsys.instructions.examples import Example, load_examples
from recsys.instructions.templates import Part, load_templates
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import SemanticIds

NEEDED = ("prepare", "tokenize/discrete", "instruct")


class Shown(NamedTuple):
    """One example under one of its task's templates."""

    task: str
    prompt: str
    response: str


def shown_examples(directory: RunDirectory, count: int, *, seed: int) -> list[Shown]:
    """`count` examples of every task (fewer where it has fewer), drawn by the seed, each under a drawn template.

    Raises:
        ArtifactError: a stage that is needed has not run, or is damaged.
    """
    prepared, tokens, instructions = (directory.verified(name) for name in NEEDED)
    ids = SemanticIds.load(tokens / "semantic_ids.parquet")
    generator = np.random.default_rng(seed)
    by_task: dict[str, list[Example]] = {}
    for example in load_examples(instructions / "instructions.parquet", Dataset.load(prepared).catalog):
        by_task.setdefault(example.task, []).append(example)
    found = []
    for task, examples in by_task.items():
        for number in generator.permutation(len(examples))[:count]:
            template = load_templates()[task][generator.integers(len(load_templates()[task]))]
            example = examples[number]
            found.append(
                Shown(task, _rendered(template.prompt, example, ids), _rendered(template.response, example, ids))
            )
    return found


def show_examples(examples: Sequence[Shown], console: Console) -> None:
    """Task by task, the prompt and, marked, what is to be written."""
    for task in dict.fromkeys(example.task for example in examples):
        console.print(Text(task, style="bold"))
        for example in examples:
            if example.task == task:
                console.print(Text(f"  {example.prompt}").append(f" {example.response}", style="green"), soft_wrap=True)
        console.print()


def _rendered(parts: Sequence[Part], example: Example, ids: SemanticIds) -> str:
    return "".join(_pieces(parts, example, ids))


def _pieces(parts: Sequence[Part], example: Example, ids: SemanticIds) -> Iterator[str]:
    layout = TokenLayout(0, ids.num_levels, ids.num_codes)
    for kind, value in parts:
        if kind == "text":
            yield value
        elif value == "text":
            yield example.text
        elif value == "titles":
            yield "".join(f"\n{title}" for title in example.titles)
        else:
            items = example.history if value == "history" else (example.item,)
            yield " ".join("".join(layout.tokens(ids.codes[item])) for item in items if item is not None)
