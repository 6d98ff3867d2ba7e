"""Rows that say what a user does not want, taken out of the interactions."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from recsys.errors import DataError
from recsys.tables import Catalog, Dislikes, Interactions

_PAIR = ("user_id", "item_id")


class Separated(NamedTuple):
    """Interactions without dislikes, the dislikes (as `Dislikes.frame`), and counts for the data card."""

    interactions: pl.DataFrame
    dislikes: pl.DataFrame
    counts: dict[str, int]


def separate(frame: pl.DataFrame) -> Separated:
    """Take out the rows that are `disliked`, and all others of their user and item.

    Raises:
        DataError: no interactions are left.
    """
    disliked = frame.filter("disliked")
    pairs = disliked.group_by(*_PAIR, maintain_order=True).agg(pl.col("timestamp").min())
    rest = frame.filter(~pl.col("disliked")).drop("disliked")
    kept = rest.join(pairs, on=_PAIR, how="anti", maintain_order="left")
    if kept.is_empty():
        raise DataError(
            f"no interactions are left: prepare.dislikes holds for {disliked.height} of {frame.height} rows, and the "
            "others are of the same users and items"
        )
    counts = {"disliked_rows": disliked.height, "interactions_of_disliked_pairs": rest.height - kept.height}
    return Separated(kept, pairs.with_columns(pl.col(_PAIR).cast(pl.String)), counts)


def of_dataset(dislikes: pl.DataFrame, interactions: Interactions, catalog: Catalog) -> tuple[Dislikes, dict[str, int]]:
    """The dislikes of users and items that a dataset has, and counts for the data card."""
    kept = dislikes.join(interactions.frame, on="user_id", how="semi", maintain_order="left").join(
        catalog.frame, on="item_id", how="semi", maintain_order="left"
    )
    found = Dislikes(kept.select(*_PAIR, "timestamp"))
    return found, {
        "dislikes": len(found),
        "users_with_dislikes": kept["user_id"].n_unique(),
        "dislikes_outside_the_dataset": dislikes.height - len(found),
    }
