"""Slices: groups of users by history length, target popularity, target category and whether the target repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.data.categories import first_paths
from recsys.metrics import IntArray
from recsys.tables import BoolArray, Catalog, Queries

MAX_CATEGORIES = 12
DOMINANT = 0.9  # a level at which one value has more than this share of the items does not divide the catalogue
LENGTH_EDGES = (0, 1, 3, 5, 10, 20, 50)
HEAD, TORSO = 0.1, 0.5  # shares of items with interactions, most popular first, at which head and torso end


class Categories(NamedTuple):
    """`codes [N]` are indices into `labels`, -1 for items without a category; `level` of the paths, from 0."""

    labels: list[str]
    codes: IntArray
    level: int


class Slices(NamedTuple):
    """One way to divide users: `groups [U]` are indices into `labels`, -1 for users in no group."""

    name: str
    labels: list[str]
    groups: IntArray


def categories(catalog: Catalog) -> Categories | None:
    """The first level of the catalogue's category paths at which items differ, None without such a level.

    The rarest values are merged into a last label, 'other'. Of several categories of an item the first counts.
    """
    paths = first_paths(catalog) or []
    for level in range(max(map(len, paths), default=0)):
        names = [path[level] if len(path) > level else None for path in paths]
        counts = Counter(name for name in names if name is not None)
        if len(counts) > 1 and counts.most_common(1)[0][1] <= DOMINANT * counts.total():
            return _coded(names, counts, level)
    return None


def _coded(names: Sequence[str | None], counts: Counter[str], level: int) -> Categories:
    kept = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_CATEGORIES]
    labels = kept if len(kept) == len(counts) else [*kept, "other"]
    index = {name: code for code, name in enumerate(kept)}
    codes = [-1 if name is None else index.get(name, len(kept)) for name in names]
    return Categories(labels, np.array(codes, dtype=np.int64), level)


def by_history_length(queries: Queries) -> Slices:
    """Users by the number of items in their history; those with none are new users."""
    lengths = queries.histories.lengths
    labels = ["new user"]
    for low, high in zip(LENGTH_EDGES[1:], [*LENGTH_EDGES[2:], None], strict=True):
        labels.append(f"{low} or more" if high is None else f"{low} to {high - 1}")
    return Slices("history length", labels, np.digitize(lengths, LENGTH_EDGES).astype(np.int64) - 1)


def by_target_popularity(queries: Queries, popularity: IntArray) -> Slices:
    """Users by the training popularity of their target: top 10 % of the items with interactions, next 40, the rest.

    A target without training interactions is a cold-start item. Equal popularity is ordered by item index.
    """
    seen = int((popularity > 0).sum())
    rank = np.argsort(np.argsort(-popularity, kind="stable"))
    group = np.digitize(rank, [np.ceil(HEAD * seen), np.ceil(TORSO * seen)])
    group[popularity == 0] = 3
    labels = ["head (top 10 %)", "torso (next 40 %)", "tail (last 50 %)", "cold start (no interactions)"]
    return Slices("target popularity", labels, group[queries.targets].astype(np.int64))


def by_category(queries: Queries, found: Categories) -> Slices:
    """Users by the category of their target."""
    return Slices("target category", found.labels, found.codes[queries.targets])


def seen_targets(queries: Queries) -> BoolArray:
    """Whether each user's target [U] is in the user's history."""
    histories = queries.histories
    owner = np.repeat(np.arange(len(queries)), histories.lengths)
    found = np.bincount(owner, weights=histories.items == queries.targets[owner], minlength=len(queries))
    return found > 0


def by_repetition(queries: Queries) -> Slices:
    """Users whose target is a new item for them, and those whose target repeats one of their history."""
    return Slices("target repetition", ["new", "in the history"], seen_targets(queries).astype(np.int64))
