"""Histories of item indices from split interactions: training sequences, and evaluation queries.

Rows of one user lie together, oldest first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.config import nearest
from recsys.errors import DataError
from recsys.tables import TEST, TRAIN, VALIDATION, Catalog, Histories, IntArray, Interactions, Queries

MAX_COMPARED = 20_000  # users among whom a similar id is looked for; more would take seconds


def training_histories(interactions: Interactions, catalog: Catalog) -> Histories:
    """Each user's TRAIN items, oldest first; users without any are omitted.

    Raises:
        DataError: an item is not in the catalogue.
    """
    rows = np.flatnonzero(interactions.frame["split"].to_numpy() == TRAIN)
    users = _user_numbers(interactions)[rows]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    user_ids = interactions.frame["user_id"].gather(rows[starts]).to_list()
    return Histories(user_ids, np.append(starts, len(rows)), _item_indices(interactions, catalog)[rows])


def queries(interactions: Interactions, catalog: Catalog, *, split: int, max_history: int) -> Queries:
    """Every user's target in `split` and the newest `max_history` items before it.

    The history of a VALIDATION target holds TRAIN items alone, that of a TEST target all earlier items of its user.

    Raises:
        DataError: an item is not in the catalogue, or `split` is neither VALIDATION nor TEST.
    """
    if split not in (VALIDATION, TEST):
        raise DataError(f"queries: split {split} has no targets; use VALIDATION ({VALIDATION}) or TEST ({TEST})")
    splits = interactions.frame["split"].to_numpy()
    users, items = _user_numbers(interactions), _item_indices(interactions, catalog)
    targets = np.flatnonzero(splits == split)
    usable = np.flatnonzero(splits == TRAIN) if split == VALIDATION else np.arange(len(splits))
    # Positions within `usable`: the user's first row, and the first row at or after the target.
    ends = np.searchsorted(usable, targets)
    starts = np.maximum(np.searchsorted(users[usable], users[targets]), ends - max_history)
    lengths = ends - starts
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    offsets = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - starts, lengths)
    user_ids = interactions.frame["user_id"].gather(targets).to_list()
    return Queries(Histories(user_ids, indptr, items[usable[offsets]]), items[targets])


def windows(histories: Histories, window: int) -> Iterator[IntArray]:
    """Training sequences of 2 to `window` items: histories cut into windows from their newest end."""
    for user in range(len(histories)):
        items = histories[user]
        for stop in range(len(items), 0, -window):
            part = items[max(0, stop - window) : stop]
            if len(part) > 1:
                yield part


def user_history(interactions: Interactions, user_id: str) -> tuple[str, ...]:
    """The ids of all items of a user, whatever their split, oldest first.

    Raises:
        DataError: there is no such user.
    """
    ids = interactions.frame["user_id"]
    items = interactions.frame["item_id"].filter(ids == user_id)
    if items.is_empty():
        users = ids.unique(maintain_order=True)
        close = nearest(user_id, users) if len(users) <= MAX_COMPARED else ""
        examples = ", ".join(repr(user[:100]) for user in users.head(3))
        raise DataError(
            f"user {user_id[:100]!r} is not one of the {len(users)} users of this dataset"
            f"{close or f'; ids are like {examples}'}"
        )
    return tuple(items)


def interaction_counts(items: IntArray, num_items: int) -> IntArray:
    """Number of interactions of each item [N], from the items of all interactions."""
    return np.bincount(items, minlength=num_items).astype(np.int64)


def _user_numbers(interactions: Interactions) -> IntArray:
    """The number of each row's user, in order of appearance."""
    ids = interactions.frame["user_id"]
    changed: npt.NDArray[np.bool_] = (ids != ids.shift()).fill_null(True).to_numpy()
    return np.cumsum(changed, dtype=np.int64) - 1


def _item_indices(interactions: Interactions, catalog: Catalog) -> IntArray:
    known = catalog.frame.select("item_id").with_row_index("index")
    found = interactions.frame.select("item_id").join(known, on="item_id", how="left", maintain_order="left")
    missing = found.filter(pl.col("index").is_null())
    if missing.height:
        raise DataError(
            f"{missing.height} interactions name items outside the catalogue, the first is {missing['item_id'][0]!r}"
        )
    return found["index"].to_numpy().astype(np.int64)
