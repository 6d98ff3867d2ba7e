"""Rankings under each policy: seen items kept, and seen items left out."""

from __future__ import annotations

import numpy as np
import polars as pl

from recsys.tables import POLICIES, SEEN_KEPT, SEEN_LEFT_OUT, Catalog, Policy, Queries, Rankings

TITLES: dict[Policy, str] = {SEEN_KEPT: "Seen items kept", SEEN_LEFT_OUT: "Seen items left out"}
MEANINGS: dict[Policy, str] = {
    SEEN_KEPT: "Every item may be recommended, those of the user’s own history too.",
    SEEN_LEFT_OUT: "Items of the user’s own history are not recommended again; a next item among them is a miss.",
}


def by_policy(rankings: Rankings, queries: Queries, catalog: Catalog) -> dict[Policy, Rankings]:
    """The rankings of each policy that there are rows of.

    Rankings without a column `policy` are read twice: as they are, and without the items of each user's history.
    """
    if "policy" in rankings.frame.columns:
        return {policy: rankings.under(policy) for policy in rankings.policies}
    return dict(zip(POLICIES, (rankings, _without_seen(rankings, queries, catalog)), strict=True))


def _without_seen(rankings: Rankings, queries: Queries, catalog: Catalog) -> Rankings:
    histories, item_ids = queries.histories, np.asarray(catalog.item_ids, dtype=object)
    seen = pl.DataFrame(
        {
            "user_id": np.repeat(np.asarray(histories.user_ids, dtype=object), histories.lengths).tolist(),
            "item_id": item_ids[histories.items].tolist(),
        },
        schema={"user_id": pl.String, "item_id": pl.String},
    ).unique()
    marked = rankings.frame.join(
        seen.with_columns(seen=pl.lit(1, pl.Int32)), on=["user_id", "item_id"], how="left", maintain_order="left"
    ).with_columns(pl.col("seen").fill_null(0))
    # Those behind a removed item move up.
    before = pl.col("seen").cum_sum().over("source", "user_id", order_by="rank")
    moved = marked.with_columns(rank=(pl.col("rank") - before).cast(pl.Int32))
    return Rankings(moved.filter(seen=0).drop("seen"))
