"""A small world whose figures can be counted by hand: six items, four users, three systems."""

from __future__ import annotations

import numpy as np
import polars as pl

from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.evaluation import Evaluation, evaluate_queries
from recsys.tables import RANKING_SCHEMA, Catalog, Histories, Queries, Rankings

USERS = ["u1", "u2", "u3", "u4"]
POPULARITY = np.array([8, 4, 2, 1, 1, 0])


def catalog() -> Catalog:
    return Catalog(
        pl.DataFrame(
            {
                "item_id": list("abcdef"),
                "title": ["Pan <b>bold</b>", "Pot & lid", "Whisk $2$", "Lamp 日本", "Shade", None],
                "categories": [
                    "Home > Kitchen",
                    "Home > Kitchen",
                    "Home > Kitchen",
                    "Home > Light",
                    "Home > Light > Shades",
                    None,
                ],
            }
        )
    )


def queries() -> Queries:
    """Targets b, d, f (cold), a."""
    return Queries(Histories.from_lists(USERS, [[0], [0, 1], [1, 2, 3], []]), np.array([1, 3, 5, 0]))


def rankings(*, more: int = 0) -> Rankings:
    """`good` finds b at 1, d at 2, f at 3 and nothing for u4; `wild` repeats and returns an out-of-catalogue item.

    `more` further systems do as `popular` does.
    """
    lists = {
        "popular": dict.fromkeys(USERS, "ab"),
        "good": {"u1": "bc", "u2": "cd", "u3": "abf"},
        "wild": {"u1": "aa", "u2": "zd"},
        **{f"popular {number}": dict.fromkeys(USERS, "ab") for number in range(more)},
    }
    rows = [
        (user, rank, item, -float(rank), source)
        for source, found in lists.items()
        for user, items in found.items()
        for rank, item in enumerate(items, start=1)
    ]
    return Rankings(pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row"))


def evaluation(*, more: int = 0) -> Evaluation:
    return evaluate_queries(
        rankings(more=more),
        queries=queries(),
        catalog=catalog(),
        popularity=POPULARITY,
        config=EvaluateConfig(cutoffs=(1, 2, 5), slice_cutoff=2, num_resamples=200),
        generator=np.random.default_rng(0),
    )
