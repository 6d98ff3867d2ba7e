"""The nouns that flow through the system; each checks its schema once, here, and is trusted afterwards.

Identifiers are the user's own strings. Inside the program an item is its row in the `Catalog` (an
*item index*); indices never leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

TRAIN, VALIDATION, TEST = 0, 1, 2
UNUSED = 3  # later interactions of a window whose first one is the target

INTERACTION_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "split": pl.Int8}
RANKING_SCHEMA = {
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "score": pl.Float32,
    "source": pl.String,
}


def _check_schema(frame: pl.DataFrame, schema: dict[str, type[pl.DataType]], name: str) -> None:
    for column, dtype in schema.items():
        if column not in frame.columns:
            raise DataError(f"{name}: column '{column}' is missing; found {', '.join(frame.columns) or 'no columns'}")
        if frame.schema[column] != dtype:
            raise DataError(f"{name}: column '{column}' is {frame.schema[column]}, expected {dtype}")


@dataclass(frozen=True, repr=False)
class Interactions:
    """Who met what, when, and in which split (`TRAIN`, `VALIDATION`, `TEST`, `UNUSED`).

    `frame` is sorted: users in their first-seen order, each user's rows oldest first.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        _check_schema(self.frame, INTERACTION_SCHEMA, "interactions")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        users, items = self.frame["user_id"].n_unique(), self.frame["item_id"].n_unique()
        return f"<Interactions ({users} users x {items} items x {len(self)} interactions)>"

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
        _check_schema(self.frame, {"item_id": pl.String}, "items")
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


@dataclass(frozen=True, repr=False)
class Histories:
    """One sequence of item indices a user, oldest first, in compressed rows.

    User u is `items[indptr[u]:indptr[u+1]]`.
    """

    user_ids: list[str]
    indptr: IntArray  # [U + 1]
    items: IntArray  # [indptr[-1]]

    def __post_init__(self) -> None:
        if len(self.indptr) != len(self.user_ids) + 1 or self.indptr[-1] != len(self.items):
            raise DataError("histories: indptr does not fit user_ids and items")

    def __len__(self) -> int:
        return len(self.user_ids)

    def __getitem__(self, user: int) -> IntArray:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def __repr__(self) -> str:
        return f"<Histories ({len(self)} users x {len(self.items)} items)>"

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.indptr)

    @classmethod
    def from_lists(cls, user_ids: Sequence[str], sequences: Sequence[Sequence[int] | IntArray]) -> Self:
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        parts = [np.asarray(s, dtype=np.int64) for s in sequences]
        return cls(list(user_ids), indptr, np.concatenate(parts) if parts else np.zeros(0, np.int64))

    def last(self, count: int) -> Histories:
        """The same users with at most their `count` newest items."""
        return Histories.from_lists(self.user_ids, [self[u][-count:] for u in range(len(self))])

    def take(self, users: IntArray) -> Histories:
        """The given users (positions), in that order."""
        return Histories.from_lists([self.user_ids[u] for u in users], [self[int(u)] for u in users])


@dataclass(frozen=True, repr=False)
class Queries:
    """What an evaluation asks: each user's history before the target, and the target's item index."""

    histories: Histories
    targets: IntArray  # [U]

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.histories):
            raise DataError("queries: one target a user is needed")

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"<Queries ({len(self)} users)>"

    @property
    def user_ids(self) -> list[str]:
        return self.histories.user_ids


@dataclass(frozen=True, repr=False)
class ItemVectors:
    """One vector per item of the catalogue, in catalogue order. `vectors` is float32 [N, D]."""

    item_ids: list[str]
    vectors: FloatArray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.item_ids):
            raise DataError(f"vectors: shape {self.vectors.shape} does not fit {len(self.item_ids)} items")
        if not np.isfinite(self.vectors).all():
            raise DataError("vectors: NaN or infinite values; every item needs finite numbers")

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"<ItemVectors ({len(self)} items x {self.vectors.shape[1]})>"

    def save(self, path: Path) -> None:
        flat = pa.array(self.vectors.reshape(-1), type=pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        pq.write_table(pa.table({"item_id": pa.array(self.item_ids, pa.string()), "embedding": column}), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        table = pq.read_table(path).combine_chunks()
        for name in ("item_id", "embedding"):
            if name not in table.column_names:
                raise DataError(f"{path.name}: column '{name}' is missing; found {', '.join(table.column_names)}")
        lists = pl.Series(pl.from_arrow(table["embedding"]))
        lengths = lists.list.len() if lists.dtype == pl.List else lists.arr.len()
        if lengths.null_count() or lengths.n_unique() > 1:
            raise DataError(f"{path.name}: every embedding needs the same number of values, and none may be missing")
        flat = np.require(lists.explode().cast(pl.Float32).to_numpy(), requirements="W")  # torch shares its memory
        ids = pl.Series(pl.from_arrow(table["item_id"])).cast(pl.String)
        return cls(ids.to_list(), flat.reshape(len(ids), -1))


@dataclass(frozen=True, repr=False)
class SemanticIds:
    """The unique tuple of codes of every item, in catalogue order. `codes` is int64 [N, L], each in 0..num_codes-1."""

    item_ids: list[str]
    codes: IntArray
    num_codes: int

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or len(self.codes) != len(self.item_ids):
            raise DataError(f"semantic ids: codes {self.codes.shape} do not fit {len(self.item_ids)} items")
        if len(self.codes) and (self.codes.min() < 0 or self.codes.max() >= self.num_codes):
            raise DataError(f"semantic ids: codes must lie in 0..{self.num_codes - 1}")
        if len(np.unique(self.codes, axis=0)) != len(self.codes):
            raise DataError("semantic ids: two items share one id; ids must be unique")

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"<SemanticIds ({len(self)} items, {self.num_levels} levels x {self.num_codes} codes)>"

    @property
    def num_levels(self) -> int:
        return int(self.codes.shape[1])

    def save(self, path: Path) -> None:
        columns = {f"code_{level}": self.codes[:, level] for level in range(self.num_levels)}
        frame = pl.DataFrame({"item_id": self.item_ids, **columns}, schema_overrides={"item_id": pl.String})
        table = frame.to_arrow().replace_schema_metadata({"num_codes": str(self.num_codes)})
        pq.write_table(table, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if b"num_codes" not in metadata:
            raise DataError(f"{path.name} is not a table of semantic ids: its metadata lacks 'num_codes'")
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        codes = frame.select(pl.exclude("item_id")).to_numpy().astype(np.int64)
        return cls(frame["item_id"].to_list(), codes, int(metadata[b"num_codes"]))


@dataclass(frozen=True, repr=False)
class Rankings:
    """Ordered recommendations: user_id, rank (from 1), item_id, score (higher is better), source (a system's name)."""

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        _check_schema(self.frame, RANKING_SCHEMA, "rankings")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        return f"<Rankings ({', '.join(self.sources)}; {self.frame['user_id'].n_unique()} users; {len(self)} rows)>"

    @property
    def sources(self) -> list[str]:
        return self.frame["source"].unique(maintain_order=True).to_list()

    @classmethod
    def from_arrays(
        cls, user_ids: Sequence[str], items: IntArray, scores: FloatArray, *, catalog: Catalog, source: str
    ) -> Self:
        """Rankings of item indices [U, k], best first; -1 marks an empty place and writes no row."""
        num_users, k = items.shape
        keep = (items >= 0).reshape(-1)
        ids = np.asarray([*catalog.item_ids, ""], dtype=object)
        frame = pl.DataFrame(
            {
                "user_id": np.repeat(np.asarray(user_ids, dtype=object), k)[keep].tolist(),
                "rank": np.tile(np.arange(1, k + 1), num_users)[keep],
                "item_id": ids[items.reshape(-1)][keep].tolist(),
                "score": scores.reshape(-1)[keep],
                "source": [source] * int(keep.sum()),
            },
            schema=RANKING_SCHEMA,
        )
        return cls(frame)

    def save(self, path: Path) -> None:
        self.frame.write_parquet(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(pl.read_parquet(path))


def unit_rows(vectors: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Float32 rows [N, D] of length 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
