"""The users of a refreshed run by what they are compared on: with new interactions, and those of the parent.

Works on datasets in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.extension import users_with_new
from recsys.data.histories import queries
from recsys.data.purposes import users_for
from recsys.tables import TEST, VALIDATION, IntArray, Queries

NEW, OLD = "new", "old"


class Groups(NamedTuple):
    """The requests of users with new interactions, whose next item is new, and of others."""

    new: Queries
    old: Queries


def validation_groups(dataset: Dataset, *, max_history: int, limit: int, seed: int) -> Groups:
    """The users that choose epochs; the old ones are those without new interactions."""
    asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=max_history)
    chosen = users_for("epochs", asked, seed=seed)
    new = users_with_new(dataset, split=VALIDATION)
    is_new = np.array([user in new for user in chosen.user_ids], np.bool_)
    return Groups(*(_drawn(chosen, np.flatnonzero(rows), limit, seed) for rows in (is_new, ~is_new)))


def group_tests(dataset: Dataset, parent: Dataset, *, limit: int, seed: int) -> Groups:
    """The test users with a new next item, and all test users of the parent, asked as the parent asked them."""
    asked, earlier = (
        queries(each.interactions, each.catalog, split=TEST, max_history=len(each.interactions))
        for each in (dataset, parent)
    )
    new = users_with_new(dataset, split=TEST)
    rows = np.flatnonzero(np.array([user in new for user in asked.user_ids], np.bool_))
    return Groups(_drawn(asked, rows, limit, seed), _drawn(earlier, np.arange(len(earlier)), limit, seed))


def _drawn(asked: Queries, rows: IntArray, limit: int, seed: int) -> Queries:
    """At most so many of the given requests, in their order."""
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return Queries(asked.histories.take(rows), asked.targets[rows])
