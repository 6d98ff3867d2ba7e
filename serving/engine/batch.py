"""Batch recommendation over a table: one row per request in, k rows out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from recsys.errors import DataError
from serving.engine.interface import Engine, Request

BATCH = 128
SCHEMA = {"row": pl.Int64, "rank": pl.Int64, "item_id": pl.String, "title": pl.String, "score": pl.Float64}


def recommend_rows(engine: Engine, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Recommendations for every row, at the best tier: row (from 0), rank (from 1), item_id, title, score.

    Args:
        rows: `history` (item ids, or a JSON list of them; may be missing), and optionally `k` and `user_id`.

    Raises:
        DataError: a row is invalid.
    """
    requests = [_request(number, row) for number, row in enumerate(rows)]
    for request in requests:
        engine.check(request)
    found: list[tuple[int, int, str, str, float]] = []
    for start in range(0, len(requests), BATCH):
        answers = engine.recommend(requests[start : start + BATCH], engine.tiers[0])
        for number, answer in enumerate(answers, start=start):
            found += [(number, rank, i.item_id, i.title, i.score) for rank, i in enumerate(answer.items, start=1)]
    return pl.DataFrame(found, schema=SCHEMA, orient="row")


def _request(number: int, row: Mapping[str, Any]) -> Request:
    k, user = row.get("k"), row.get("user_id")
    return Request(
        history=_history(number, row.get("history")),
        k=Request.k if _missing(k) else _whole(number, k),
        user=None if _missing(user) else str(user),
    )


def _whole(number: int, k: Any) -> int:
    """`k`, which is a float in a column with missing values."""
    if isinstance(k, (bool, str)) or not float(k).is_integer():
        raise DataError(f"row {number}: k={str(k)[:100]!r}; give a whole number")
    return int(k)


def _history(number: int, value: Any) -> tuple[str, ...]:
    if _missing(value):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"row {number}: the history is no JSON list of item ids: {value[:100]!r}") from error
    items = None if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable) else list(value)
    if items is None or not all(isinstance(item, str) for item in items):
        raise DataError(f"row {number}: the history is {str(value)[:100]!r}; give a list of item ids (strings)")
    return tuple(items)


def _missing(value: Any) -> bool:
    """None, or NaN, which tables use for it."""
    return value is None or (isinstance(value, float) and value != value)
