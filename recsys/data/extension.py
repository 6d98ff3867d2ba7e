"""A dataset with the interactions of a later period: its users and items go on, and the new ones are split anew.

Works on tables in memory. Only interactions after the dataset's last one are added, so that they are those after a
time: `card["refresh"]["after"]`, see `later_share`.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.data.card import describe
from recsys.data.cleaning import encode, sort, time_unit, without_repeats
from recsys.data.dataset import Dataset
from recsys.data.disliked import of_dataset, separate
from recsys.data.raw import RAW_SCHEMA, RawData
from recsys.data.splits import Splits, leave_one_out
from recsys.data.times import PER_SECOND, Clock, TimeUnit
from recsys.errors import DataError
from recsys.tables import TEST, TRAIN, VALIDATION, WEIGHT, Dislikes, Interactions

CARD = "refresh"  # the entry of the data card
_ROW = ("user_id", "item_id", "timestamp")


class Later(NamedTuple):
    """Interactions [R] that a dataset does not have yet, by time, and how many rows of each kind were left out."""

    frame: pl.DataFrame
    counts: dict[str, int]


def extend(dataset: Dataset, raw: RawData, *, held_out: float, seed: int) -> Dataset:
    """The dataset with the new interactions of its items.

    Of a share `held_out` of the users with new interactions the last one is TEST and the one before VALIDATION, as
    leave-one-out has it; their earlier ones, and what was held out of them before, are TRAIN. Other users stay as they
    are split.

    Raises:
        DataError: times are positions, or there is nothing new to train on.
    """
    dislikes = None
    if "disliked" in raw.interactions.columns:
        separated = separate(raw.interactions)
        raw, dislikes = raw._replace(interactions=separated.interactions), separated.dislikes
    later = _later(dataset, raw)
    interactions = _joined(dataset.interactions, later.frame, held_out=held_out, seed=seed)
    after = _last_time(dataset)
    extended = replace(dataset, interactions=interactions, card=_card(dataset, interactions, later.counts, after))
    _require_targets(interactions, after)
    return extended if dislikes is None else _with_dislikes(extended, dislikes, _unit(raw))


def later_only(dataset: Dataset) -> Interactions:
    """An extended dataset's interactions, of which only the new ones count as targets of a training."""
    interactions, after = dataset.interactions, added_after(dataset)
    weights = interactions.weights
    counted = np.ones(len(interactions), np.float32) if weights is None else weights
    new = interactions.frame["timestamp"].to_numpy() > after
    return Interactions(interactions.frame.with_columns(pl.Series(WEIGHT, np.where(new, counted, 0), pl.Float32)))


def users_with_new(dataset: Dataset, *, split: int) -> set[str]:
    """Users of an extended dataset who have a new interaction in a split."""
    return set(dataset.interactions.frame["user_id"].filter(_is_new(dataset.interactions, added_after(dataset), split)))


def added_after(dataset: Dataset) -> int:
    """The time after which all interactions of an extended dataset are new."""
    return int(dataset.card[CARD]["after"])


def _is_new(interactions: Interactions, after: int, split: int) -> pl.Series:
    frame = interactions.frame
    return (frame["timestamp"] > after) & (frame["split"] == split)


def _require_targets(interactions: Interactions, after: int) -> None:
    """Refuse data without a new interaction to train on that has one of its user before or after it."""
    counts = pl.col(WEIGHT) > 0 if interactions.weights is not None else pl.lit(value=True)
    trained = interactions.frame.filter(split=TRAIN).group_by("user_id")
    users = trained.agg(rows=pl.len(), new=((pl.col("timestamp") > after) & counts).any())
    if users.filter(pl.col("new") & (pl.col("rows") > 1)).is_empty():
        new = interactions.frame.filter(pl.col("timestamp") > after).height
        raise DataError(
            f"none of the {new} new interactions is left to train on, as the last two of every user are held out; give "
            "a longer period, or hold out fewer users by refresh.held_out"
        )


def _last_time(dataset: Dataset) -> int:
    return int(dataset.interactions.frame["timestamp"].to_numpy().max())


def _later(dataset: Dataset, raw: RawData) -> Later:
    """New interactions of known items; see `Later`."""
    coded, repeated = without_repeats(sort(encode(raw.interactions)))
    times = _converted(coded.times, _unit(raw), _unit_of(dataset))
    columns = {"user_id": coded.user_ids.gather(coded.users), "item_id": coded.item_ids.gather(coded.items)}
    frame = pl.DataFrame({**columns, "timestamp": times})
    if dataset.interactions.weights is not None:
        ones = np.ones(len(times), np.float32)
        frame = frame.with_columns(pl.Series(WEIGHT, ones if coded.weights is None else coded.weights))
    known = frame.join(dataset.catalog.frame, on="item_id", how="semi", maintain_order="left")
    unknown = frame.join(dataset.catalog.frame, on="item_id", how="anti")
    added = known.join(dataset.interactions.frame, on=_ROW, how="anti", maintain_order="left")
    after = _last_time(dataset)
    later = added.filter(pl.col("timestamp") > after)
    counts = {
        "rows": raw.interactions.height,
        "repeated": repeated,
        "of_unknown_items": unknown.height,
        "unknown_items": unknown["item_id"].n_unique(),
        "already_in_parent": known.height - added.height,
        "not_later": added.height - later.height,
    }
    if later.is_empty():
        left = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
        raise DataError(
            f"there are no new interactions: all must be of known items and later than {after}, the run's last time in "
            f"{_unit_of(dataset)} ({left}); give those of a later period"
        )
    return Later(later.sort("timestamp", maintain_order=True), counts)


def _unit(raw: RawData) -> TimeUnit:
    return time_unit(sort(encode(raw.interactions)), raw.clock)


def _unit_of(dataset: Dataset) -> TimeUnit:
    """That of the data card; by magnitude where a dataset made in memory has none."""
    frame = dataset.interactions.frame.select(*RAW_SCHEMA)
    known: TimeUnit | None = dataset.card.get("time_unit")
    return known or time_unit(sort(encode(frame.cast(RAW_SCHEMA))), Clock())


def _converted(times: npt.NDArray[np.int64], unit: TimeUnit, wanted: TimeUnit) -> npt.NDArray[np.int64]:
    """Times in the dataset's unit; finer ones are cut, which leaves their order within a user."""
    if "positions" in (unit, wanted):
        whose = "the run's" if wanted == "positions" else "the new"
        raise DataError(
            f"{whose} times are positions (0, 1, 2, ... for every user), which do not say what is later; real times "
            "are needed, train a new run instead"
        )
    finer, own = PER_SECOND[wanted], PER_SECOND[unit]
    return times * (finer // own) if finer >= own else times // (own // finer)


def _joined(interactions: Interactions, later: pl.DataFrame, *, held_out: float, seed: int) -> Interactions:
    """Users in their old order, then new ones; each user's rows oldest first."""
    old = interactions.frame
    added = later.with_columns(split=pl.lit(TRAIN, pl.Int8)).select(old.columns)
    frame = pl.concat([old.with_columns(new=pl.lit(False)), added.with_columns(new=pl.lit(True))])
    users = frame.select(pl.col("user_id").unique(maintain_order=True)).with_row_index("number")
    frame = frame.join(users, on="user_id", how="left", maintain_order="left").sort("number", maintain_order=True)
    kept = np.array([_share(user, seed) < held_out for user in users["user_id"]])
    numbers, new = frame["number"].to_numpy(), frame["new"].to_numpy()
    splits = _splits(frame["split"].to_numpy(), numbers, new, kept)
    return Interactions(frame.drop("number", "new").with_columns(pl.Series("split", splits, pl.Int8)))


def _splits(
    old: Splits, users: npt.NDArray[np.uint32], new: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_]
) -> Splits:
    """Split [R] of sorted rows: see `extend`; `kept` are the users [U] whose last ones are held out."""
    goes_on = np.bincount(users, weights=new) > 0
    held = np.where(kept[users], leave_one_out(users), TRAIN)
    found: Splits = np.where(new, held, np.where(goes_on[users], TRAIN, old)).astype(np.int8)
    return found


def _share(user: str, seed: int) -> float:
    """A number from 0 to 1 of a user, the same whatever the others."""
    return int.from_bytes(blake2b(f"{seed} held out {user}".encode(), digest_size=6).digest(), "big") / 2**48


def _card(dataset: Dataset, interactions: Interactions, counts: dict[str, int], after: int) -> dict[str, Any]:
    """The parent's data card with the sizes of the extended dataset, and what became of the new rows."""
    frame = interactions.frame
    coded = sort(encode(frame.select(*RAW_SCHEMA).cast(RAW_SCHEMA)))
    unit = _unit_of(dataset)
    new = frame.filter(pl.col("timestamp") > after)
    sizes = describe(coded, frame["split"].to_numpy(), unit)
    sizes |= {"weights": dataset.card["weights"]} if "weights" in dataset.card else {}
    known = dataset.interactions.frame["user_id"].unique()
    names = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
    own: dict[str, int] = {
        **counts,
        "added": new.height,
        "users": new["user_id"].n_unique(),
        "new_users": new.filter(~pl.col("user_id").is_in(known.implode()))["user_id"].n_unique(),
        **{name: int((new["split"] == split).sum()) for name, split in names.items()},
        "after": after,
    }
    return {**dataset.card, **sizes, CARD: own}


def _with_dislikes(dataset: Dataset, added: pl.DataFrame, unit: TimeUnit) -> Dataset:
    """With new dislikes besides those that were known."""
    times = _converted(added["timestamp"].to_numpy(), unit, _unit_of(dataset))
    found, _ = of_dataset(added.with_columns(timestamp=times), dataset.interactions, dataset.catalog)
    frames = [found.frame] if dataset.dislikes is None else [dataset.dislikes.frame, found.frame]
    pairs = pl.concat(frames).unique(["user_id", "item_id"], keep="first", maintain_order=True)
    return replace(dataset, dislikes=Dislikes(pairs))
