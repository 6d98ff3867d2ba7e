"""What an import finds in its source, as far as it comes: files, columns, times, sizes, items, and warnings.

A `Profile` is filled step by step, so that it shows what could be recognized of a source that is refused. It is part of
data_card.json, and what `recsys inspect` and the report show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import TypeAdapter

Role = Literal["user id", "item id", "time", "condition", "weight", "event type", "title", "text", "ignored"]
INTERACTIONS, ITEMS, USERS, UNKNOWN = "interactions", "items", "users", "unknown"  # kinds of tables
Basis = Literal["dates", "numbers", "positions", "order of rows"]
Period = Literal["", "day", "month", "year"]


@dataclass
class ColumnFound:
    """A column of a file, what it is read as, its type in words, and its first values."""

    name: str
    role: Role
    type: str
    first: list[str]


@dataclass
class TableFound:
    """A table of interactions or items: the name of its file or folder, number of files, how written, and columns."""

    kind: str
    name: str
    files: int
    form: str
    columns: list[ColumnFound]


@dataclass
class TimeExample:
    """A time as the file has it, and as it was read."""

    written: str
    read: str


@dataclass
class TimesFound:
    """Times of the rows read, before filtering.

    `basis` is what the times are; the unit of numbers is that of their magnitude. `first` and `last` are dates in UTC,
    or numbers where the unit is positions. `counts` are rows by `period`, one for each of `starts`; both are empty for
    positions. `tied_share` is the share of rows that share their time with another row of the same user. `in_future`
    counts rows after the day of the import.
    """

    unit: str
    basis: Basis
    first: str
    last: str
    distinct: int
    whole_days: bool
    tied_share: float
    in_future: int
    period: Period
    starts: list[str]
    counts: list[int]


@dataclass
class Bin:
    """How many users and items have `low` to `high` interactions."""

    low: int
    high: int
    users: int
    items: int


@dataclass
class Sizes:
    """Users, items and interactions; `repeats` are with an item that their user has an earlier interaction with.

    `history` are the quantiles of a user's interactions, by percent; `largest_user` and `largest_item` have the most.
    """

    users: int
    items: int
    interactions: int
    repeats: int
    history: dict[int, int]
    bins: list[Bin]
    largest_user: tuple[str, int]
    largest_item: tuple[str, int]


@dataclass
class ItemsFound:
    """Items table against interactions, before filtering.

    `interacted` items have interactions, `matched` of them are among the `listed`. `untitled` of the listed items have
    no title, `same_title` share theirs with another one. `texts` is the share of listed items with a text, by column.
    """

    interacted: int
    listed: int
    matched: int
    first_unlisted: str | None
    untitled: int
    same_title: int
    common_title: str | None
    texts: dict[str, float]


@dataclass
class DataWarning:
    """Something that may be misunderstood, and how to correct it."""

    name: str
    message: str
    fix: str


@dataclass
class Profile:
    """Findings of an import; what is None or empty was not reached. `counts` are those of the data card so far.

    `sorted_by_id_share` is the share of users whose rows are in the order of item ids, None for too few users to judge.
    `decimal_ids` names the kinds of ids that are whole numbers with decimals (`8.0`).
    """

    kind: str | None = None
    kind_is_set: bool = False
    tables: list[TableFound] = field(default_factory=list)
    time_examples: list[TimeExample] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    times: TimesFound | None = None
    before: Sizes | None = None
    after: Sizes | None = None
    sorted_by_id_share: float | None = None
    decimal_ids: list[str] = field(default_factory=list)
    items: ItemsFound | None = None
    warnings: list[DataWarning] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """The data card, of plain JSON values: the counts, and all else under `profile`."""
        found = TypeAdapter(type(self)).dump_python(self, mode="json")
        return {**found.pop("counts"), "profile": found}

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Self:
        """The profile that a data card holds; an empty one for a card without."""
        counts = {name: value for name, value in card.items() if name != "profile"}
        return TypeAdapter(cls).validate_python({**card.get("profile", {}), "counts": counts})
