"""What is known of every item, in catalogue order: vectors and semantic ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.tables.identifiers import identifier
from recsys.tables.types import FloatArray, IntArray


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
        given = pl.DataFrame(pl.from_arrow(table.select(["item_id"])))
        text, inexact = identifier("item_id", given.schema["item_id"])
        ids, unusable = given.select(item_id=text, inexact=inexact | text.is_null())
        if unusable.any():
            row = int(unusable.arg_max() or 0)
            raise DataError(
                f"{path.name}: row {row + 1} has no item id that is text or a whole number: {given.row(row)[0]!r}"
            )
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


def unit_rows(vectors: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Float32 rows [N, D] of length 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
