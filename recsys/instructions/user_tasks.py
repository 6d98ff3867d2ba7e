"""Tasks with texts about users: what they look for, and what they prefer (LC-Rec, section 3.3).

The paper had both written by another language model. Here they are what the data bring, or composed from the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import COLUMNS, COMPOSED, Example
from recsys.instructions.source import TaskSource


def intention(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """A history's semantic ids and what the user looks for -> the semantic id of the item that was chosen."""
    return _with_intentions(source, config, "intention", earliest=1)


def query_to_id(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """What a user looks for, alone -> the semantic id of the item that was chosen, which may be the user's first."""
    return _with_intentions(source, config, "query_to_id", earliest=0)


def preference(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """The semantic ids of a window of a history -> what its user prefers."""
    stated = None if config.preference == COMPOSED else source.preferences
    for user, items in source.positions.windows("preference", limit=config.max_examples):
        text, origin = None if stated is None else stated[user], COLUMNS
        if not text and config.preference != COLUMNS:
            text, origin = source.texts.preference(items.tolist()), COMPOSED
        if text:
            yield Example("preference", history=tuple(items.tolist()), text=text, source=origin)


def _with_intentions(source: TaskSource, config: InstructConfig, task: str, *, earliest: int) -> Iterator[Example]:
    """Intentions of training interactions alone; those of the data go before those that are composed of the target."""
    items = source.histories.items
    stated = np.zeros(len(items), np.bool_) if config.intention == COMPOSED else source.stated
    usable = stated if config.intention == COLUMNS else stated | source.texts.described[items]
    drawn = source.positions.draw(task, usable, limit=config.max_examples, earliest=earliest, preferred=stated)
    for position in drawn:
        history = tuple(position.history.tolist()) if earliest else ()
        if stated[position.row] and source.intentions is not None:
            yield Example(task, history, position.item, source.intentions[position.row], source=COLUMNS)
        else:
            text = source.texts.intention(position.item, position.row)
            yield Example(task, history, position.item, text, source=COMPOSED)
