"""Sentences about irregular lists and about the data, for the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.evaluation.metrics import RankedItems
from recsys.evaluation.slices import Categories, seen_targets
from recsys.metrics import IntArray
from recsys.tables import Queries


def list_notices(ranked: Mapping[str, RankedItems], num_items: int) -> list[str]:
    """About the lists of each system."""
    notices = []
    for name, r in ranked.items():
        depth = int((r.items >= 0).any(axis=0).sum())
        if depth < min(r.items.shape[1], num_items):
            notices.append(f"{name} returned at most {depth} items a user; metrics at larger cutoffs do not change.")
        if r.users_without_rows:
            notices.append(f"{name} returned nothing for {r.users_without_rows:,} users; they count as misses.")
        if r.out_of_catalogue_items:
            notices.append(f"{name} returned {r.out_of_catalogue_items:,} out-of-catalogue items.")
        if r.repeated_items:
            notices.append(f"{name} repeated an item within a list {r.repeated_items:,} times.")
    return notices


def shortened_notices(ranked: Mapping[str, RankedItems], before: Mapping[str, RankedItems], cutoff: int) -> list[str]:
    """About lists that reach a cutoff no more, since seen items were removed from those that were given."""
    notices = []
    for name, r in ranked.items():
        short, was_short = ((one.items >= 0).sum(axis=1) < cutoff for one in (r, before[name]))
        count = int((short & ~was_short).sum())
        if count:
            notices.append(
                f"{name}: without the items of the history, the lists of {count:,} users are shorter than {cutoff}; "
                "give longer ones, or rankings that were made with seen items left out (column policy)."
            )
    return notices


def data_notices(queries: Queries, popularity: IntArray, found: Categories | None) -> list[str]:
    """About the users and the catalogue."""
    notices = []
    if found is None:
        notices.append("No slices by category: no category column divides the catalogue.")
    elif (found.codes < 0).any():
        notices.append(f"{int((found.codes < 0).sum()):,} items have no category; they are in no category slice.")
    cold = int((popularity[queries.targets] == 0).sum())
    notices.append(
        f"{cold:,} of {len(queries):,} users have a cold-start target, an item without training interactions."
    )
    repeats = int(np.count_nonzero(seen_targets(queries)))
    if repeats:
        notices.append(
            f"The target of {repeats:,} of {len(queries):,} users is in their history; with seen items left out it is "
            "never found."
        )
    return notices
