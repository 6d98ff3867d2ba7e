"""The catalogue of the items kept, and the statistics of the data card."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from recsys.data.cleaning import Coded, Weights, ties
from recsys.data.splits import Splits
from recsys.data.times import PER_SECOND, TimeUnit
from recsys.tables import TEST, TRAIN, UNUSED, VALIDATION, Catalog

SPLIT_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test", UNUSED: "unused"}


def build_catalog(items: pl.DataFrame | None, coded: Coded, *, keep_cold: bool) -> tuple[Catalog, dict[str, int]]:
    """The catalogue in the order of the items file, and counts for the data card.

    Items with interactions but no row in the items file follow, without texts; items without interactions are dropped
    unless `keep_cold`.
    """
    interacted = coded.item_ids.gather(np.flatnonzero(np.bincount(coded.items))).to_frame("item_id")
    listed = interacted.clear() if items is None else items
    known = listed.join(interacted, on="item_id", how="semi", maintain_order="left")
    added = interacted.join(listed, on="item_id", how="anti", maintain_order="left")
    frame = pl.concat([listed if keep_cold else known, added], how="diagonal")
    texts = [name for name in frame.columns if name != "item_id"]
    textless = frame.filter(pl.all_horizontal(pl.col(name).is_null() for name in texts)).height if texts else len(frame)
    counts = {
        "items_without_interactions": listed.height - known.height,
        "items_not_listed": added.height if items is not None else 0,
        "items_without_texts": textless,
    }
    return Catalog(frame), counts


def describe(coded: Coded, splits: Splits, unit: TimeUnit) -> dict[str, Any]:
    """Sizes, time range, ties, repeats and splits of clean interactions."""
    pairs = coded.users.astype(np.uint64) * np.uint64(len(coded.item_ids)) + coded.items
    sizes = np.bincount(splits, minlength=len(SPLIT_NAMES))
    weights = {} if coded.weights is None else {"weights": _weights(coded.weights)}
    stated = {} if coded.intentions is None else {"stated_intentions": coded.intentions.count()}
    return {
        "users": int(np.count_nonzero(np.bincount(coded.users))),
        "items": int(np.count_nonzero(np.bincount(coded.items))),
        "interactions": len(coded.users),
        "repeated_pairs": len(pairs) - pl.Series(pairs).n_unique(),
        "time_unit": unit,
        "first_time": int(coded.times.min()),
        "last_time": int(coded.times.max()),
        "tied_share": round(float(ties(coded).mean()), 4),
        "last_two_in_one_second": _last_two_in_one_second(coded, unit),
        "splits": {name: int(sizes[split]) for split, name in SPLIT_NAMES.items()},
        **weights,
        **stated,
    }


def _weights(weights: Weights) -> dict[str, float]:
    """The range of the interactions' weights, and how many count for nothing."""
    mean = round(float(weights.mean(dtype=np.float64)), 4)
    return {
        "least": float(weights.min()),
        "mean": mean,
        "greatest": float(weights.max()),
        "zeros": int((weights == 0).sum()),
    }


def _last_two_in_one_second(coded: Coded, unit: TimeUnit) -> float:
    """Share of users (of two or more interactions) whose last two are within one second; 0 for positions."""
    if unit == "positions":
        return 0.0
    seconds = coded.times // PER_SECOND[unit]
    last = np.flatnonzero(np.append(coded.users[1:] != coded.users[:-1], True))
    last = last[np.bincount(coded.users)[coded.users[last]] >= 2]
    return round(float(np.mean(seconds[last] == seconds[last - 1])), 4) if len(last) else 0.0
