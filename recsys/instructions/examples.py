"""Instruction examples: the inputs of a task's templates, before tokenization.

Templates and tokens are applied at collation (`recsys.llm.collation`), so that one example is trained under many
templates. Written to and read from `instructions.parquet`, with item ids in place of indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.tables import Catalog

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "task": pl.String,
    "history": pl.List(pl.String),
    "item": pl.String,
    "text": pl.String,
}
SEQUENTIAL = "sequential"  # the one task whose history is answered, item by item
CHOSEN = ("titles_to_id", "intention", "query_to_id")  # tasks whose answer is an item that a user chose
COLUMNS, COMPOSED = "columns", "composed"  # sources of a text about a user


@dataclass(frozen=True)
class Example:
    """One example: `history` and `item` are item indices; a field that its task does not use is empty.

    `weights` say how much each item of the history counts as a target (`TrainingSequence`); empty where all are alike.
    `titles` are those of a history that is read as text. `source` says where a text about a user comes from: `columns`
    of the data, or `composed` from the catalogue.
    """

    task: str
    history: tuple[int, ...] = ()
    item: int | None = None
    text: str = ""
    weights: tuple[float, ...] = ()
    titles: tuple[str, ...] = ()
    source: str = ""

    @property
    def targets(self) -> tuple[int, ...]:
        """Items of training histories that are to be predicted; in the sequential task those whose weight is not 0."""
        if self.task in CHOSEN and self.item is not None:
            return (self.item,)
        if self.task != SEQUENTIAL:
            return ()
        if not self.weights:
            return self.history
        return tuple(item for item, weight in zip(self.history, self.weights, strict=True) if weight > 0)


def save_examples(examples: Sequence[Example], catalog: Catalog, path: Path) -> None:
    ids = catalog.item_ids
    frame = pl.DataFrame(
        {
            "task": [e.task for e in examples],
            "history": [[ids[i] for i in e.history] for e in examples],
            "item": [None if e.item is None else ids[e.item] for e in examples],
            "text": [e.text for e in examples],
        },
        schema=_SCHEMA,
    )
    if any(e.weights for e in examples):
        frame = frame.with_columns(weights=pl.Series([e.weights for e in examples], dtype=pl.List(pl.Float32)))
    if any(e.titles for e in examples):
        frame = frame.with_columns(titles=pl.Series([e.titles for e in examples], dtype=pl.List(pl.String)))
    if any(e.source for e in examples):
        frame = frame.with_columns(source=pl.Series([e.source for e in examples], dtype=pl.String))
    frame.write_parquet(path)


def load_examples(path: Path, catalog: Catalog) -> list[Example]:
    """Examples with item indices of the catalogue that they were saved with."""
    positions = catalog.positions
    shared: dict[str, str] = {}  # a title is in many histories, and kept once
    return [
        Example(
            task=row["task"],
            history=tuple(positions[i] for i in row["history"]),
            item=None if row["item"] is None else positions[row["item"]],
            text=row["text"],
            weights=tuple(row.get("weights") or ()),
            titles=tuple(shared.setdefault(title, title) for title in row.get("titles") or ()),
            source=row.get("source") or "",
        )
        for row in pl.read_parquet(path).iter_rows(named=True)
    ]
