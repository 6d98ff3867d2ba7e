"""What the endpoint needs of an engine: one loaded bundle that answers requests in the user's own item ids.

`serving.engine.engine.BundleEngine` implements it; tests use a fake. The engine checks item ids: a request that cannot
be answered raises `DataError` with one line for the person who sent it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Tier = Literal["full", "narrow", "dense", "popularity"]
TIERS: tuple[Tier, ...] = ("full", "narrow", "dense", "popularity")

Where = tuple[tuple[str, tuple[str, ...]], ...]  # (column, values it may have), of different columns


@dataclass(frozen=True)
class Request:
    """One question for recommendations; item ids that the catalogue does not have are left out of `history`.

    `user` names the noise of the diffusion samples, so that one user always gets the same list. `exclude_seen` None
    means the bundle's own policy. `where` keeps items whose column has one of the values.
    """

    history: tuple[str, ...] = ()
    k: int = 10
    user: str | None = None
    exclude: tuple[str, ...] = ()
    exclude_seen: bool | None = None
    where: Where = ()


@dataclass(frozen=True)
class Retrieval:
    """One question without the language model's own ranking: the `k` items nearest to a latent or to an item's, or what
    the dense ranking says of a history; exactly one of them."""

    k: int = 10
    vector: tuple[float, ...] | None = None
    history: tuple[str, ...] | None = None
    item_id: str | None = None
    user: str | None = None
    where: Where = ()


@dataclass(frozen=True)
class RankedItem:
    """One item of an answer: `source_scores` has its score in each ranking that lists it, `tokens` its semantic id."""

    item_id: str
    title: str
    score: float
    source_scores: dict[str, float] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Items, best first, and the history's ids that the catalogue does not have.

    `seconds` tells the stages of the whole batch: prefill, decode, retrieve, fuse, as far as they took place.
    """

    items: tuple[RankedItem, ...]
    ignored: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemMetadata:
    """What is known of one item: its text columns, its tokens, and whether it has been withdrawn."""

    item_id: str
    title: str
    texts: dict[str, str]
    tokens: tuple[str, ...]
    interactions: int
    withdrawn: bool


@dataclass(frozen=True)
class NewItem:
    """An item to add: its text columns, and its vector where the bundle has no text encoder of its own."""

    item_id: str
    texts: dict[str, str]
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True)
class EngineInfo:
    """Facts of a bundle for people and for metrics."""

    bundle: str  # its id, the hash of its contents
    items: int
    routes: tuple[str, ...]
    filters: tuple[str, ...]  # columns that `where` may name
    versions: dict[str, str]
    settings: dict[str, str]


class Engine(Protocol):
    """One loaded bundle.

    What ranks (`recommend`, `retrieve`, `similar`) and what changes items is called on one thread, the rest on any.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The rungs this bundle has, the best first; the last is always `popularity`."""

    def check(self, request: Request) -> None:
        """Raise DataError where the request cannot be answered, before it waits in a queue."""

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        """Answers in the order of the requests, made together; each is what its request gets alone."""

    def retrieve(self, retrieval: Retrieval) -> tuple[RankedItem, ...]:
        """Items, best first; the score is the negative distance, and of a history that of the dense ranking."""

    def similar(self, item_id: str, k: int, where: Where = ()) -> tuple[RankedItem, ...]:
        """Items like one, itself left out."""

    def item(self, item_id: str) -> ItemMetadata:
        """Facts of an item, also of one that is withdrawn."""

    def search(self, text: str, limit: int) -> tuple[RankedItem, ...]:
        """Items whose title has all words of a text, those that begin with it first."""

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        """The most frequent values of a filter column, with how many items have each."""

    def add(self, items: Sequence[NewItem]) -> None:
        """Add items, recommended from the next request on; all or none."""

    def withdraw(self, item_ids: Sequence[str]) -> None:
        """Take items out of every answer from the next request on; all or none."""

    def restore(self, item_ids: Sequence[str]) -> None:
        """Let withdrawn items be recommended again; all or none."""
