"""Cleaning of interactions: exact duplicates, order within users, k-core, and a check of that order.

Works on integer codes: 20 million rows fit in a few hundred MB.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.data.times import EPOCH_UNITS, LARGEST_SECONDS, UNITS, Clock, TimeUnit
from recsys.errors import DataError

Codes = npt.NDArray[np.uint32]
Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]

ORDER_USERS, ORDER_LENGTH, ORDER_SHARE = 20, 4, 0.9


class Coded(NamedTuple):
    """Interactions [R] with users and items as codes, numbered in order of first appearance.

    `weights` are None where all interactions count alike, `intentions` where the data do not state any.
    """

    users: Codes
    items: Codes
    times: Times
    user_ids: pl.Series
    item_ids: pl.Series
    weights: Weights | None = None
    intentions: pl.Series | None = None

    def take(self, rows: npt.NDArray[np.int64] | Mask) -> Coded:
        """The given rows, with the same codes."""
        weights = None if self.weights is None else self.weights[rows]
        intentions = self.intentions
        if intentions is not None:
            intentions = intentions.gather(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows)
        taken = self._replace(users=self.users[rows], items=self.items[rows], times=self.times[rows])
        return taken._replace(weights=weights, intentions=intentions)


def encode(frame: pl.DataFrame) -> Coded:
    """Codes for a frame of `RAW_SCHEMA`, and its weights and intentions, if it has any."""
    users, user_ids = _first_seen(frame["user_id"])
    items, item_ids = _first_seen(frame["item_id"])
    weights = frame["weight"].to_numpy() if "weight" in frame.columns else None
    intentions = frame["intention"] if "intention" in frame.columns else None
    return Coded(users, items, frame["timestamp"].to_numpy(), user_ids, item_ids, weights, intentions)


def sort(coded: Coded) -> Coded:
    """Sort by user code, then by time; stable."""
    oldest = int(coded.times.min())
    bits = (int(coded.times.max()) - oldest).bit_length()
    if bits + len(coded.user_ids).bit_length() > 63:
        return coded.take(np.lexsort((coded.times, coded.users)))
    # Sorting one key is three times as fast as two.
    keys = (coded.users.astype(np.int64) << bits) | (coded.times - oldest)
    return coded.take(np.argsort(keys, kind="stable"))


def without_repeats(coded: Coded) -> tuple[Coded, int]:
    """Drop sorted interactions with the user, item and time of another one; also returns their number.

    The first of them is kept, or the first of the greatest weight.
    """
    tied = np.flatnonzero(ties(coded))
    keys = (coded.items[tied], coded.times[tied], coded.users[tied])
    lightest_last = () if coded.weights is None else (-coded.weights[tied],)
    order = tied[np.lexsort((*lightest_last, *keys))]  # stable: the first stays first
    same = [values[order[1:]] == values[order[:-1]] for values in (coded.users, coded.times, coded.items)]
    keep = np.ones(len(coded.users), dtype=np.bool_)
    keep[order[1:]] = ~np.logical_and.reduce(same)
    return coded.take(keep), int((~keep).sum())


def ties(coded: Coded) -> Mask:
    """Which rows of sorted interactions share their time with another of the same user."""
    same = (np.diff(coded.users) == 0) & (np.diff(coded.times) == 0)
    tied: Mask = np.append(same, False) | np.append(False, same)
    return tied


def k_core(coded: Coded, minimum: int) -> Coded:
    """The k-core: the largest part in which every user and every item has at least `minimum` interactions.

    Raises:
        DataError: it is empty.
    """
    while len(coded.users):
        enough_users = np.bincount(coded.users) >= minimum
        enough_items = np.bincount(coded.items) >= minimum
        keep = enough_users[coded.users] & enough_items[coded.items]
        if keep.all():
            return coded
        coded = coded.take(keep)
    raise DataError(
        f"no part of the data has at least {minimum} interactions for every user and every item; "
        "lower prepare.min_interactions"
    )


def time_unit(coded: Coded, clock: Clock) -> TimeUnit:
    """The unit of the times of sorted interactions, by their magnitude where it is not known.

    0, 1, 2, ... in every user are positions.
    """
    if clock.unit is not None:
        return clock.unit
    starts = np.flatnonzero(np.diff(coded.users, prepend=np.uint32(len(coded.user_ids))))
    first = np.repeat(coded.times[starts], np.diff(starts, append=len(coded.users)))
    steps = np.arange(len(coded.users)) - np.repeat(starts, np.diff(starts, append=len(coded.users)))
    if first.max() <= 1 and np.array_equal(coded.times - first, steps):
        return "positions"
    size = abs(int(np.median(coded.times))) // clock.scale
    last = len(EPOCH_UNITS) - 1
    power = next((power for power in range(last) if size < LARGEST_SECONDS * 1000**power), last)
    return UNITS[min(power + round(math.log(clock.scale, 1000)), len(UNITS) - 1)]


def sorted_by_id_share(coded: Coded) -> float | None:
    """Share of the users whose sorted interactions are in the order of item ids; None for too few users to judge."""
    num_users = len(coded.user_ids)
    ranks = _id_ranks(coded.item_ids)[coded.items]
    within = np.diff(coded.users) == 0
    steps = np.sign(np.diff(ranks)) * within
    later = coded.users[1:]
    rising, falling = (np.bincount(later, steps == sign, minlength=num_users) for sign in (1, -1))
    judged = rising + falling >= ORDER_LENGTH - 1
    if judged.sum() < ORDER_USERS:
        return None
    return round(float(np.mean(((rising == 0) | (falling == 0))[judged])), 4)


def check_order(share: float | None) -> None:
    """Refuse interactions that are, within nearly all users, in the order of item ids; see `sorted_by_id_share`.

    Raises:
        DataError: they are; such times are not real.
    """
    if share is not None and share >= ORDER_SHARE:
        raise DataError(
            f"{share:.0%} of the users have their interactions sorted by item id, so the order is not chronological "
            "and no sequence can be learned; get a release with real times, or set prepare.check_order=false if "
            "items are numbered in the order of their appearance"
        )


def _first_seen(column: pl.Series) -> tuple[Codes, pl.Series]:
    """A categorical column as codes in the order of first appearance, and the id of each code."""
    known = column.unique(maintain_order=True)
    present = known.to_physical().to_numpy()
    codes = np.empty(int(present.max()) + 1, dtype=np.uint32)
    codes[present] = np.arange(len(present), dtype=np.uint32)
    return codes[column.to_physical().to_numpy()], known.cast(pl.String)


def _id_ranks(ids: pl.Series) -> npt.NDArray[np.int64]:
    """Rank of each id in sorted order, by number where all are numbers."""
    numbers = ids.cast(pl.Int64, strict=False)
    return (ids if numbers.has_nulls() else numbers).rank("ordinal").cast(pl.Int64).to_numpy()
