"""The alignment tasks: each turns training histories and the catalogue into examples (LC-Rec, section 3.3).

A task is one function in `TASKS`, its templates in templates.yaml, and its weight in `TaskWeights`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from recsys.data.histories import windows
from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import SEQUENTIAL, Example
from recsys.instructions.history_tasks import history_to_description, history_to_title, titles_to_id
from recsys.instructions.source import TaskSource
from recsys.instructions.user_tasks import intention, preference, query_to_id
from recsys.tables import Catalog

logger = logging.getLogger(__name__)


def sequential(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """Every history, cut into windows from its newest end; each window predicts all of its items."""
    return (
        Example(
            SEQUENTIAL,
            history=tuple(items.tolist()),
            weights=() if weights is None else tuple(weights.tolist()),
        )
        for items, weights in windows(source.histories, source.max_history)
    )


def item_to_id(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """An item's text -> its semantic id; one example for each of its texts (see `_texts`)."""
    return (Example("item_to_id", item=item, text=text) for item, text in _texts(source.catalog))


def id_to_item(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """An item's semantic id -> its text; one example for each of its texts (see `_texts`)."""
    return (Example("id_to_item", item=item, text=text) for item, text in _texts(source.catalog))


Task = Callable[[TaskSource, InstructConfig], Iterator[Example]]
TASKS: dict[str, Task] = {
    SEQUENTIAL: sequential,
    "item_to_id": item_to_id,
    "id_to_item": id_to_item,
    "history_to_title": history_to_title,
    "history_to_description": history_to_description,
    "titles_to_id": titles_to_id,
    "intention": intention,
    "query_to_id": query_to_id,
    "preference": preference,
}


def make_examples(source: TaskSource, config: InstructConfig) -> list[Example]:
    """Examples of every task whose weight is above zero; a task without inputs is skipped with a warning."""
    examples: list[Example] = []
    for name, task in TASKS.items():
        if getattr(config.weights, name) == 0:
            continue
        found = list(task(source, config))
        if not found:
            logger.warning("task %s is skipped: the data has no inputs for it", name)
        examples += found
    return examples


def _texts(catalog: Catalog) -> Iterator[tuple[int, str]]:
    """(item index, text) for the title, the other texts, and both together, as far as an item has them."""
    columns = catalog.text_columns
    rest = [c for c in columns if c != "title"]
    frame = catalog.frame.select(columns)
    for item, row in enumerate(frame.iter_rows(named=True)):
        title = row.get("title") or ""
        other = ". ".join(row[c] for c in rest if row[c])
        both = f"{title}. {other}" if title and other else ""
        yield from ((item, text) for text in (title, other, both) if text)
