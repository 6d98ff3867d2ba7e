"""What a dataset holds: user-item interactions and the catalogue of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.tables.types import FloatArray, IntArray, check_schema

TRAIN, VALIDATION, TEST = 0, 1, 2
UNUSED = 3  # later interactions of a window whose first one is the target

WEIGHT, INTENTION = "weight", "intention"
INTERACTION_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "split": pl.Int8}


@dataclass(frozen=True, repr=False)
class Interactions:
    """User-item interactions with their time and split (`TRAIN`, `VALIDATION`, `TEST`, `UNUSED`).

    `frame` is sorted: users in their first-seen order, each user's rows oldest first. A column `weight` (Float32, 0
    or more) says how much an interaction counts in training, where they do not all count alike; a column `intention`
    (String, nulls allowed) what the user was looking for, where the data say so.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        check_schema(self.frame, INTERACTION_SCHEMA, "interactions")
        if WEIGHT in self.frame.columns:
            check_schema(self.frame, {WEIGHT: pl.Float32}, "interactions")
            weights = self.frame[WEIGHT]
            if not (weights.is_finite() & (weights >= 0)).fill_null(value=False).all():
                raise DataError("interactions: every weight must be a finite number from 0 on")
        if INTENTION in self.frame.columns:
            check_schema(self.frame, {INTENTION: pl.String}, "interactions")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        users, items = self.frame["user_id"].n_unique(), self.frame["item_id"].n_unique()
        return f"<Interactions ({users} users x {items} items x {len(self)} interactions)>"

    @property
    def weights(self) -> FloatArray | None:
        """[R], how much each interaction counts; None where all count alike."""
        return self.frame[WEIGHT].to_numpy() if WEIGHT in self.frame.columns else None

    @property
    def intentions(self) -> pl.Series | None:
        """[R], what each user was looking for, null where it is not known; None where the data never say so."""
        return self.frame[INTENTION] if INTENTION in self.frame.columns else None

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(pl.read_parquet(path))


@dataclass(frozen=True, repr=False)
class Users:
    """What is known of users: a unique `user_id`, and any number of text columns (String, nulls allowed)."""

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        check_schema(self.frame, {"user_id": pl.String}, "users")
        if self.frame["user_id"].n_unique() != self.frame.height:
            raise DataError("users: column 'user_id' has repeated values; keep one row a user")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        return f"<Users ({len(self)} users; {', '.join(self.text_columns) or 'no texts'})>"

    @property
    def text_columns(self) -> list[str]:
        return [c for c, t in self.frame.schema.items() if t == pl.String and c != "user_id"]

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(pl.read_parquet(path))


@dataclass(frozen=True, repr=False)
class Catalog:
    """The items: a unique `item_id`, and any number of text columns (String, nulls allowed; `title` by convention).

    The row number of an item is its item index everywhere else.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        check_schema(self.frame, {"item_id": pl.String}, "items")
        if self.frame["item_id"].n_unique() != self.frame.height:
            raise DataError("items: column 'item_id' has repeated values; keep one row an item")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        return f"<Catalog ({len(self)} items; {', '.join(self.text_columns) or 'no texts'})>"

    @cached_property
    def item_ids(self) -> list[str]:
        return self.frame["item_id"].to_list()

    @cached_property
    def positions(self) -> dict[str, int]:
        """item_id -> item index."""
        return {item_id: index for index, item_id in enumerate(self.item_ids)}

    @property
    def text_columns(self) -> list[str]:
        return [c for c, t in self.frame.schema.items() if t == pl.String and c != "item_id"]

    def indices(self, item_ids: Sequence[str]) -> IntArray:
        """Item indices [n] of the given ids.

        Raises:
            DataError: an id is not in the catalogue.
        """
        missing = [i for i in item_ids if i not in self.positions]
        if missing:
            raise DataError(f"{len(missing)} item ids are not in the catalogue, the first is {missing[0]!r}")
        return np.fromiter((self.positions[i] for i in item_ids), dtype=np.int64, count=len(item_ids))

    def titles(self) -> list[str]:
        """A line to show a person for each item: its title, or its id where it has none."""
        if "title" not in self.frame.columns:
            return self.item_ids
        return [t or i for t, i in zip(self.frame["title"].to_list(), self.item_ids, strict=True)]

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(pl.read_parquet(path))
