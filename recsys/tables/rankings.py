"""Ranked items: of a batch of users as arrays, of an evaluation as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.tables.candidates import POLICIES, Policy
from recsys.tables.interactions import Catalog
from recsys.tables.types import FloatArray, IntArray, check_schema

RANKING_SCHEMA: dict[str, type[pl.DataType]] = {
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "score": pl.Float32,
    "source": pl.String,
}
POLICY_TYPE = pl.Enum(POLICIES)  # of the column `policy`, which rankings have that were made under one policy or both


class TopItems(NamedTuple):
    """The best items of each user, best first."""

    items: IntArray  # [U, k] item indices, -1 = padding
    scores: FloatArray  # [U, k], -inf = padding

    def first(self, k: int) -> TopItems:
        """The `k` best of them."""
        return TopItems(self.items[:, :k], self.scores[:, :k])

    def padded(self, k: int) -> TopItems:
        """At least `k` ranks wide."""
        missing = ((0, 0), (0, max(0, k - self.items.shape[1])))
        return TopItems(
            np.pad(self.items, missing, constant_values=-1), np.pad(self.scores, missing, constant_values=-np.inf)
        )


def top_k(scores: FloatArray, k: int) -> TopItems:
    """The `k` best columns of scores [B, N], best first, equal scores by column; -inf is never returned.

    Sorts unique 64-bit keys - the score's order-preserving bits, then the column - so the result cannot depend on
    how a partition treats ties. Ranks beyond N are padding.
    """
    num_rows, num_items = scores.shape
    width = min(k, num_items)
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # adding 0 turns -0.0 into 0.0
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = -(ascending << 32) + np.arange(num_items)
    best = np.sort(np.partition(keys, width - 1, axis=1)[:, :width] if width else keys[:, :0], axis=1)
    columns = best & 0xFFFFFFFF
    found = np.take_along_axis(scores, columns, axis=1)
    items = np.full((num_rows, k), -1, dtype=np.int64)
    values = np.full((num_rows, k), -np.inf, dtype=np.float32)
    items[:, :width] = np.where(np.isneginf(found), -1, columns)
    values[:, :width] = found
    return TopItems(items, values)


def concatenate(parts: list[TopItems], k: int) -> TopItems:
    """The rows of several rankings, each of width `k`, one below the other."""
    if not parts:
        return TopItems(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
    return TopItems(np.concatenate([p.items for p in parts]), np.concatenate([p.scores for p in parts]))


@dataclass(frozen=True, repr=False)
class Rankings:
    """Ordered recommendations: user_id, rank (from 1), item_id, score (higher is better), source (a system's name).

    A column `policy` says under which policy a list was made; without it they all are as one system gave them.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        check_schema(self.frame, RANKING_SCHEMA, "rankings")
        if "policy" in self.frame.columns:
            check_schema(self.frame, {"policy": POLICY_TYPE}, "rankings")
            if self.frame["policy"].null_count():
                raise DataError("rankings: a row has no policy; give each one, or leave the column out")

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        return f"<Rankings ({', '.join(self.sources)}; {self.frame['user_id'].n_unique()} users; {len(self)} rows)>"

    @property
    def sources(self) -> list[str]:
        return self.frame["source"].unique(maintain_order=True).to_list()

    @property
    def policies(self) -> list[Policy]:
        """Those that rows are of; none where there is no column `policy`."""
        found = set(self.frame["policy"].unique().to_list()) if "policy" in self.frame.columns else set()
        return [policy for policy in POLICIES if policy in found]

    def under(self, policy: Policy) -> Rankings:
        """The rows of one policy."""
        return Rankings(self.frame.filter(pl.col("policy") == policy))

    @classmethod
    def from_arrays(
        cls, user_ids: Sequence[str], top: TopItems, *, catalog: Catalog, source: str, policy: Policy | None = None
    ) -> Self:
        """Rankings of item indices [U, k], best first; -1 is padding and writes no row."""
        items, scores = top
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
        return cls(frame if policy is None else frame.with_columns(policy=pl.lit(policy, POLICY_TYPE)))

    def save(self, path: Path) -> None:
        self.frame.write_parquet(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(pl.read_parquet(path))
