"""Why an answer is empty, short, or not about the one who asked: a code for programs, a sentence for people.

The one place where notices are made; the library, the command line, the endpoint and the page all show them. They are
made of what is known after ranking: no item is ranked for them, and candidates are counted only for short answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from recsys.tables import BoolArray, IntArray

NoticeCode = Literal[
    "unknown-user",  # no history is known for the user
    "unknown-items",  # ids of the history that the catalogue does not have
    "empty-history",  # no item of a history is known, so that everyone would get this answer
    "filter-empty",  # no item passes the filter
    "all-seen",  # every candidate is in the history, whose items are left out
    "fewer-than-asked",  # fewer items than were asked for, for the reasons that `counts` has
    "removed-items",  # ranked, but withdrawn or not in the catalogue: the bundle is wrong
]
MAX_IDS = 10  # ids that a notice lists; it counts all
MAX_SHOWN = 60  # characters of an id in a sentence


@dataclass(frozen=True)
class Notice:
    """One thing to know about an answer.

    `item_ids` are the first `MAX_IDS` that it is about. `counts` has numbers of items by name: `unknown` and `history`
    (ids), or `asked`, `given`, `catalogue` and why candidates are fewer (`withdrawn`, `filtered`, `seen`, `excluded`,
    `unranked`).
    """

    code: NoticeCode
    message: str
    item_ids: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """The items of a catalogue, and how many of them may not be in one answer; each counts for one reason."""

    catalogue: int
    withdrawn: int
    filtered: int
    seen: int
    excluded: int

    @classmethod
    def count(
        cls,
        allowed: BoolArray | None,
        *,
        catalogue: int,
        withdrawn: int,
        seen: IntArray,
        excluded: IntArray,
    ) -> Self:
        """Of one request.

        Args:
            allowed: bool [N], False for what does not pass the filter and for withdrawn items; None allows all.
            seen: item indices that are left out because they are in the history.
            excluded: those that the request leaves out; an item may be in both.
        """
        passing = np.ones(catalogue, np.bool_) if allowed is None else allowed.copy()
        filtered = catalogue - withdrawn - int(passing.sum())
        left_out = []
        for items in (seen, excluded):
            before = int(passing.sum())
            passing[items] = False
            left_out.append(before - int(passing.sum()))
        return cls(catalogue, withdrawn, filtered, *left_out)

    @property
    def left(self) -> int:
        """How many may be in the answer."""
        return self.catalogue - self.withdrawn - self.filtered - self.seen - self.excluded


def unknown_user(user: str) -> Notice:
    """No history is stored for a user that a request names."""
    return Notice("unknown-user", f"user {_cut(user)} is unknown: no history is stored under this id")


def history_notices(history: Sequence[str], unknown: Sequence[str]) -> tuple[Notice, ...]:
    """What there is to know about the ids of a history, of which some are unknown."""
    if history and not unknown:
        return ()
    visitor = "so that these are the items for a new visitor"
    if not history:
        return (Notice("empty-history", f"the history is empty, {visitor}"),)
    counts = {"unknown": len(unknown), "history": len(history)}
    more = f" and {len(unknown) - MAX_IDS} more" if len(unknown) > MAX_IDS else ""
    ids = f"{', '.join(map(_cut, unknown[:MAX_IDS]))}{more}"
    message = f"{len(unknown)} of {len(history)} ids of the history are not in the catalogue and are ignored: {ids}"
    notice = Notice("unknown-items", message, tuple(unknown[:MAX_IDS]), counts)
    if len(unknown) < len(history):
        return (notice,)
    return notice, Notice("empty-history", f"no item of the history is known, {visitor}")


def shortage(asked: int, given: int, candidates: Candidates) -> Notice:
    """Why an answer has `given` items, fewer than the number asked for."""
    reasons = {
        "withdrawn": candidates.withdrawn,
        "filtered": candidates.filtered,
        "seen": candidates.seen,
        "excluded": candidates.excluded,
        "unranked": candidates.left - given,
    }
    counts = {"asked": asked, "given": given, "catalogue": candidates.catalogue, **reasons}
    passing = candidates.catalogue - candidates.withdrawn - candidates.filtered
    if not passing and candidates.filtered:
        return Notice("filter-empty", "no item of the catalogue passes the filter", counts=counts)
    if candidates.seen and candidates.seen == passing:
        which = "that pass the filter " if candidates.filtered else ""
        message = f"all {passing} items {which}are in the history, and items of the history are left out"
        return Notice("all-seen", message, counts=counts)
    words = {
        "withdrawn": "withdrawn",
        "filtered": "kept out by the filter",
        "seen": "in the history",
        "excluded": "excluded",
        "unranked": "beyond what the models listed",
    }
    parts = [f"{number} {words[name]}" for name, number in reasons.items() if number > 0]
    size = f"the catalogue has {candidates.catalogue}"
    message = f"{asked} items were asked for, {given} found: {size}{', of which ' if parts else ''}{', '.join(parts)}"
    return Notice("fewer-than-asked", message, counts=counts)


def removed_items(item_ids: Sequence[str]) -> Notice:
    """Ranked items that were taken out of an answer, since they may not be recommended."""
    message = f"{len(item_ids)} ranked items are withdrawn or not in the catalogue, and are removed"
    return Notice("removed-items", message, tuple(item_ids[:MAX_IDS]), {"removed": len(item_ids)})


def _cut(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...")
