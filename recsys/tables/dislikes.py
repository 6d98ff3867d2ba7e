"""What users do not want: items that are never recommended to them, under any policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.tables.interactions import Catalog, Interactions
from recsys.tables.types import IntArray, check_schema

_SCHEMA: dict[str, type[pl.DataType]] = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


@dataclass(frozen=True, repr=False)
class Dislikes:
    """Pairs of a user and an item, each once, with the time of the first row that has it."""

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        check_schema(self.frame, _SCHEMA, "dislikes")
        if self.frame.select("user_id", "item_id").n_unique() != self.frame.height:
            raise DataError("dislikes: a pair of user and item is repeated; keep one row a pair")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        return f"<Dislikes ({len(self)} of {self.frame['user_id'].n_unique()} users)>"

    def before_targets(
        self, user_ids: Sequence[str], interactions: Interactions, catalog: Catalog, *, split: int
    ) -> list[IntArray]:
        """Item indices that each user disliked before the target in `split`, [users] arrays.

        Later ones are not known yet when the target is to be predicted.
        """
        targets = interactions.frame.filter(split=split).select("user_id", limit="timestamp")
        known = catalog.frame.select("item_id").with_row_index("index")
        pairs = (
            self.frame.join(targets, on="user_id")
            .filter(pl.col("timestamp") < pl.col("limit"))
            .join(known, on="item_id")
        )
        found = dict(pairs.group_by("user_id").agg("index").iter_rows())
        return [np.asarray(found.get(user, []), dtype=np.int64) for user in user_ids]

    def by_user(self) -> dict[str, tuple[str, ...]]:
        """All disliked item ids of every user who has any."""
        grouped = self.frame.group_by("user_id", maintain_order=True).agg("item_id")
        return {user: tuple(items) for user, items in grouped.iter_rows()}

    def save(self, path: Path) -> None:
        self.frame.write_parquet(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(pl.read_parquet(path))
