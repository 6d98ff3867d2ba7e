"""Example users for the report: history, target, and each system's recommendations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.evaluation.metrics import ranked_items
from recsys.metrics import NOT_FOUND, IntArray, target_ranks
from recsys.tables import Catalog, Queries, Rankings

HISTORY_SHOWN = 10


class Shown(NamedTuple):
    """One recommended item; `hit` where it is the target."""

    title: str
    hit: bool


class Example(NamedTuple):
    """One user. `history` is the newest part, oldest first; `earlier` counts the older items."""

    user_id: str
    history: list[str]
    earlier: int
    target: str
    lists: dict[str, list[Shown]]

    @property
    def finders(self) -> list[str]:
        """The systems whose list holds the target."""
        return [name for name, shown in self.lists.items() if any(entry.hit for entry in shown)]


def example_users(
    rankings: Rankings,
    *,
    queries: Queries,
    catalog: Catalog,
    cutoff: int,
    count: int,
    generator: np.random.Generator,
) -> list[Example]:
    """Draw `count` users: half from those whose target some system found, the rest from all the others.

    Hits are rare: a uniform draw would hardly show any. The report explains this.
    """
    ranked = {
        source: ranked_items(rankings, source=source, user_ids=queries.user_ids, catalog=catalog, depth=cutoff).items
        for source in rankings.sources
    }
    hits = [target_ranks(items, queries.targets) != NOT_FOUND for items in ranked.values()]
    found = np.any(hits, axis=0)
    users = _draw(np.flatnonzero(found), count - count // 2, generator)
    users += _draw(np.flatnonzero(~found), count - len(users), generator)
    titles = catalog.titles()
    return [_example(user, ranked, queries, titles) for user in users]


def _draw(users: IntArray, count: int, generator: np.random.Generator) -> list[int]:
    drawn = generator.permutation(users)[: max(0, count)]
    return [int(user) for user in np.sort(drawn)]


def _example(user: int, ranked: dict[str, IntArray], queries: Queries, titles: list[str]) -> Example:
    history, target = queries.histories[user], int(queries.targets[user])
    lists = {
        name: [Shown(titles[item], bool(item == target)) for item in items[user] if item >= 0]
        for name, items in ranked.items()
    }
    return Example(
        user_id=queries.user_ids[user],
        history=[titles[item] for item in history[-HISTORY_SHOWN:]],
        earlier=max(0, len(history) - HISTORY_SHOWN),
        target=titles[target],
        lists=lists,
    )
