"""Asymmetric prediction: the next item is written in another form than the history is read in (LC-Rec, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.instructions.source import TaskSource


def history_to_title(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """A history's semantic ids -> the title of the next item."""
    return _next_text(source, config, "history_to_title", source.texts.titles)


def history_to_description(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """A history's semantic ids -> the description of the next item."""
    return _next_text(source, config, "history_to_description", source.texts.descriptions)


def titles_to_id(source: TaskSource, config: InstructConfig) -> Iterator[Example]:
    """A history's titles -> the semantic id of the next item; items without a title are left out of the history."""
    every, titles = np.ones(len(source.histories.items), np.bool_), source.texts.titles
    for position in source.positions.draw("titles_to_id", every, limit=config.max_examples):
        read = tuple(titles[item] for item in position.history if titles[item])
        if read:
            yield Example("titles_to_id", item=position.item, titles=read)


def _next_text(source: TaskSource, config: InstructConfig, task: str, texts: Sequence[str]) -> Iterator[Example]:
    usable = np.array([bool(text) for text in texts], np.bool_)[source.histories.items]
    for position in source.positions.draw(task, usable, limit=config.max_examples):
        yield Example(task, history=tuple(position.history.tolist()), text=texts[position.item])
