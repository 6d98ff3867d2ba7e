"""Which validation users choose what: epochs, parameters of scores and the fusion each have users of their own.

A choice fits the users that it is made on. What the next choice, or a validation figure, is measured on should not be
them.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from typing import Literal

import numpy as np

from recsys.tables import Queries

Purpose = Literal["epochs", "scoring", "fusion"]
DEALT: tuple[Purpose, ...] = ("epochs", "fusion", "scoring", "epochs", "fusion")  # to every five users, in this order

logger = logging.getLogger(__name__)


def users_for(purpose: Purpose, queries: Queries, *, seed: int, limit: int | None = None) -> Queries:
    """The validation users of one purpose, in their original order.

    Users are ordered by a hash of the seed and their id, and dealt out in turns: of any number of users, two fifths
    choose epochs, one fifth parameters of scores (a bandwidth, weights of terms) and two fifths the fusion, to within
    one user. Of fewer than three users a purpose gets none, which is logged.

    Args:
        queries: those of all validation users; who they are decides, not their order.
        limit: at most so many of the purpose's users, the first by hash; the fewer are among the more.
    """
    keys = [blake2b(f"{seed} {user}".encode(), digest_size=16).digest() for user in queries.user_ids]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    turn = np.arange(len(order)) % len(DEALT)
    mine = order[np.isin(turn, [number for number, name in enumerate(DEALT) if name == purpose])]
    if len(queries) and not len(mine):
        logger.warning(
            "%s: none of %d validation users is left for it; epochs, scoring and fusion are chosen by different users",
            *(purpose, len(queries)),
        )
    chosen = np.sort(mine[:limit])
    return Queries(queries.histories.take(chosen), queries.targets[chosen])
