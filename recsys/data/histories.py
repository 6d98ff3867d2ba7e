"""Histories of item indices from split interactions: training sequences, and evaluation queries.

Rows of one user lie together, oldest first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.config import nearest
from recsys.errors import DataError
from recsys.tables import TEST, TRAIN, VALIDATION, Catalog, FloatArray, Histories, IntArray, Interactions, Queries

MAX_COMPARED = 20_000  # users among whom a similar id is looked for; more would take seconds


def training_histories(interactions: Interactions, catalog: Catalog) -> Histories:
    """Each user's TRAIN items, oldest first, with their weights, if there are any; users without items are omitted.

    Raises:
        DataError: an item is not in the catalogue.
    """
    rows = np.flatnonzero(interactions.frame["split"].to_numpy() == TRAIN)
    users = _user_numbers(interactions)[rows]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    user_ids = interactions.frame["user_id"].gather(rows[starts]).to_list()
    weights = None if interactions.weights is None else interactions.weights[rows]
    return Histories(user_ids, np.append(starts, len(rows)), _item_indices(interactions, catalog)[rows], weights)


def training_intentions(interactions: Interactions) -> pl.Series | None:
    """What users were looking for in each row of `training_histories`, in the same order; None where none is known."""
    stated = interactions.intentions
    return None if stated is None else stated.filter(interactions.frame["split"] == TRAIN)


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


class TrainingSequence(NamedTuple):
    """A training sequence [n] and what each item weighs as a target, None where all weigh the same.

    A target of weight 0 is none, but part of the history of those after it; the mean of the others is 1, so that a
    learning rate means the same with and without weights.
    """

    items: IntArray
    weights: FloatArray | None = None

    def last(self, count: int) -> TrainingSequence:
        """Its `count` newest items."""
        return TrainingSequence(self.items[-count:], None if self.weights is None else self.weights[-count:])


def windows(histories: Histories, window: int) -> list[TrainingSequence]:
    """Training sequences of 2 to `window` items: histories cut into windows from their newest end.

    Sequences whose weights are all 0 are left out.

    Raises:
        DataError: all of them are.
    """
    found: list[TrainingSequence] = []
    for start, end in pairwise(histories.indptr.tolist()):
        for stop in range(end, start, -window):
            rows = slice(max(start, stop - window), stop)
            if rows.stop - rows.start > 1:
                weights = None if histories.weights is None else histories.weights[rows]
                found.append(TrainingSequence(histories.items[rows], weights))
    return weighted_targets(found)


def weighted_targets(sequences: list[TrainingSequence]) -> list[TrainingSequence]:
    """Sequences that have a target of weight above 0, their weights scaled to a mean of 1 over such targets.

    Raises:
        DataError: there is none.
    """
    weights = [s.weights[s.weights > 0] for s in sequences if s.weights is not None]
    if not weights:
        return sequences
    positive = np.concatenate(weights, dtype=np.float64)
    if not len(positive):
        raise DataError("all training interactions weigh 0, so that nothing can be learned; see prepare.event_weights")
    mean = positive.mean()
    return [
        TrainingSequence(items, (weights / mean).astype(np.float32))
        for items, weights in sequences
        if weights is not None and weights.any()
    ]


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


def item_lists(interactions: Interactions) -> pl.DataFrame:
    """Every user (`user_id`) with the ids of all items (`item_id`, a list), whatever their split, oldest first."""
    return interactions.frame.group_by("user_id", maintain_order=True).agg("item_id")


def interaction_counts(items: IntArray, num_items: int) -> IntArray:
    """Number of interactions of each item [N], from the items of all interactions."""
    return np.bincount(items, minlength=num_items).astype(np.int64)


def weight_sums(histories: Histories, num_items: int) -> FloatArray | None:
    """The sum of the weights of each item's interactions [N]; None where they have none."""
    if histories.weights is None:
        return None
    return np.bincount(histories.items, histories.weights, minlength=num_items).astype(np.float32)


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
