"""Per-user ranking metrics: every user counts, also where a system returned nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.metrics import FloatArray, IntArray, target_ranks, top_k_per_user
from recsys.tables import Catalog, Rankings

METRICS = ("hr", "ndcg", "mrr")
EMPTY = -2  # a rank that no row is about


class RankedItems(NamedTuple):
    """What one system returned for the users of an evaluation.

    Attributes:
        items: `[U, K]` item indices, best first, -1 = padding or an out-of-catalogue item.
        out_of_catalogue_items: rows whose item is not in the catalogue.
        repeated_items: rows whose item is in the same list already.
        users_without_rows: users for whom the system returned nothing.
    """

    items: IntArray
    out_of_catalogue_items: int
    repeated_items: int
    users_without_rows: int


def ranked_items(
    rankings: Rankings, *, source: str, user_ids: Sequence[str], catalog: Catalog, depth: int
) -> RankedItems:
    """The first `depth` ranks of one source as a matrix `[len(user_ids), depth]`; rows of other users are ignored.

    Raises:
        DataError: a rank below 1, or two rows for one of these ranks of a user.
    """
    users = _numbered(user_ids, "user_id", "row")
    items = _numbered(catalog.item_ids, "item_id", "item")
    frame = (
        rankings.frame.lazy()
        .filter(pl.col("source") == source)
        .join(users.lazy(), on="user_id")
        .join(items.lazy(), on="item_id", how="left")
        .select("row", "rank", pl.col("item").fill_null(-1))
        .collect()
    )
    worst = int(frame["rank"].to_numpy().min(initial=1))
    if worst < 1:
        raise DataError(f"rankings of '{source}': rank {worst}; ranks start at 1; correct the file")
    shown = frame.filter(pl.col("rank") <= depth)
    matrix = np.full((len(user_ids), depth), EMPTY, dtype=np.int64)
    matrix[shown["row"].to_numpy(), shown["rank"].to_numpy() - 1] = shown["item"].to_numpy()
    doubled = shown.height - int((matrix != EMPTY).sum())
    if doubled:
        raise DataError(f"rankings of '{source}': {doubled} rows repeat a rank; keep one row a user and rank")
    np.maximum(matrix, -1, out=matrix)
    ordered = np.sort(matrix.astype(np.int32), axis=1)
    return RankedItems(
        items=matrix,
        out_of_catalogue_items=int((frame["item"] < 0).sum()),
        repeated_items=int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum()),
        users_without_rows=int((np.bincount(frame["row"], minlength=len(user_ids)) == 0).sum()),
    )


def ranked_sources(
    rankings: Rankings, *, user_ids: Sequence[str], catalog: Catalog, depth: int
) -> dict[str, RankedItems]:
    """`ranked_items` of every source.

    Raises:
        DataError: a rank below 1, or two rows for one rank of a user.
    """
    return {
        source: ranked_items(rankings, source=source, user_ids=user_ids, catalog=catalog, depth=depth)
        for source in rankings.sources
    }


def _numbered(ids: Sequence[str], name: str, number: str) -> pl.DataFrame:
    schema = {name: pl.String, number: pl.Int32}
    return pl.DataFrame({name: ids, number: np.arange(len(ids), dtype=np.int32)}, schema=schema)


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """The columns of `per_user_metrics`: hr@1, hr@5, ..., ndcg@1, ..."""
    return [f"{metric}@{k}" for metric in METRICS for k in cutoffs]


def per_user_metrics(items: IntArray, targets: IntArray, *, cutoffs: Sequence[int]) -> FloatArray:
    """Every metric of every user, `[U, M]` in the order of `metric_names`; a missing target scores 0."""
    ranks = target_ranks(items, targets)
    at_cutoffs = [top_k_per_user(ranks, k=k) for k in cutoffs]
    columns = [values[metric] for metric in range(len(METRICS)) for values in at_cutoffs]
    return np.stack(columns, axis=1)


def source_scores(ranked: Mapping[str, RankedItems], targets: IntArray, *, cutoffs: Sequence[int]) -> FloatArray:
    """`per_user_metrics` of every source, `[U, S, M]`."""
    return np.stack([per_user_metrics(lists.items, targets, cutoffs=cutoffs) for lists in ranked.values()], axis=1)
