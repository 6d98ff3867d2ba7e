"""The alignment tasks: each turns training histories and the catalogue into examples (LC-Rec, section 3.3).

A task is one function in `TASKS`, its templates in templates.yaml and its weight in `TaskWeights`; nothing else knows
its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recsys.data.histories import windows
from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.tables import Catalog, Histories

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSource:
    """What tasks may look at: training interactions only, never validation or test."""

    catalog: Catalog
    histories: Histories


def sequential(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """Every history, cut into windows from its newest end; each window predicts all of its items."""
    return (Example("sequential", history=tuple(items.tolist())) for items in windows(source.histories, config.window))


def item_to_id(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """An item's text -> its semantic id; an item has one example a kind of text."""
    return (Example("item_to_id", item=item, text=text) for item, text in _texts(source.catalog))


def id_to_item(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """An item's semantic id -> its text; an item has one example a kind of text."""
    return (Example("id_to_item", item=item, text=text) for item, text in _texts(source.catalog))


Task = Callable[[TaskSource, InstructConfig], Iterator[Example]]
TASKS: dict[str, Task] = {"sequential": sequential, "item_to_id": item_to_id, "id_to_item": id_to_item}


def make_examples(source: TaskSource, config: InstructConfig) -> list[Example]:
    """Examples of every task whose weight is above zero; a task whose inputs are missing is skipped with a notice."""
    examples: list[Example] = []
    for name, task in TASKS.items():
        if getattr(config.weights, name) == 0:
            continue
        made = list(task(source, config))
        if not made:
            logger.warning("task %s is skipped: the data has nothing to make its examples from", name)
        examples += made
    return examples


def _texts(catalog: Catalog) -> Iterator[tuple[int, str]]:
    """(item index, text) for the title, for the other texts, and for both, where an item has them."""
    columns = catalog.text_columns
    rest = [c for c in columns if c != "title"]
    frame = catalog.frame.select(columns)
    for item, row in enumerate(frame.iter_rows(named=True)):
        title = row.get("title") or ""
        other = ". ".join(row[c] for c in rest if row[c])
        both = f"{title}. {other}" if title and other else ""
        yield from ((item, text) for text in (title, other, both) if text)
