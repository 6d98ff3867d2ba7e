"""The engine interface: one loaded bundle that answers requests in the catalogue's item ids.

`serving.engine.engine.BundleEngine` implements it; tests use a fake. The engine checks item ids: a request that cannot
be answered raises `DataError` with one line for the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from recsys.ranking.notices import Notice as Notice
from recsys.ranking.notices import NoticeCode as NoticeCode
from recsys.ranking.recommender import Answer as Answer
from recsys.ranking.recommender import RankedItem as RankedItem
from recsys.ranking.recommender import Request as LibraryRequest

Tier = Literal["full", "narrow", "no-decoding", "popularity"]
TIERS: tuple[Tier, ...] = ("full", "narrow", "no-decoding", "popularity")

Where = tuple[tuple[str, tuple[str, ...]], ...]  # (column, values it may have), of different columns


@dataclass(frozen=True)
class Request(LibraryRequest):
    """A request for recommendations; `where` keeps items whose column has one of the values."""

    where: Where = ()


@dataclass(frozen=True)
class Retrieval:
    """A request without generation: the `k` items nearest to a latent vector or to an item, or the diffusion ranking of
    a history; exactly one of them."""

    k: int = 10
    vector: tuple[float, ...] | None = None
    history: tuple[str, ...] | None = None
    item_id: str | None = None
    user: str | None = None
    where: Where = ()


@dataclass(frozen=True)
class ItemMetadata:
    """One item: its text columns, tokens, number of training interactions, and whether it is withdrawn."""

    item_id: str
    title: str
    texts: dict[str, str]
    tokens: tuple[str, ...]
    interactions: int
    withdrawn: bool


@dataclass(frozen=True)
class NewItem:
    """An item to add: its text columns, and its vector where the bundle has no text encoder."""

    item_id: str
    texts: dict[str, str]
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True)
class EngineInfo:
    """Metadata of a bundle."""

    bundle: str  # its id, the hash of its contents
    items: int
    routes: tuple[str, ...]
    filters: tuple[str, ...]  # columns that `where` can filter by
    versions: dict[str, str]
    settings: dict[str, str]


class Engine(Protocol):
    """One loaded bundle.

    Call `recommend`, `retrieve`, `similar` and item changes on one thread, the rest on any.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The degradation tiers of this bundle, best first; the last is always `popularity`."""

    def check(self, request: Request) -> None:
        """Raise DataError for an invalid request, before it is queued."""

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        """Answers in the order of the requests, computed in one batch; each equals the answer of its request alone."""

    def retrieve(self, retrieval: Retrieval) -> Answer:
        """Items, best first; the score is the negative distance, for a history that of the diffusion ranking."""

    def similar(self, item_id: str, k: int, where: Where = ()) -> Answer:
        """Items similar to one, itself left out."""

    def item(self, item_id: str) -> ItemMetadata:
        """Metadata of an item, also of a withdrawn one."""

    def search(self, text: str, limit: int) -> tuple[RankedItem, ...]:
        """Items whose title has all words of a text, titles that begin with it first."""

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        """The most frequent values of a filter column, with their numbers of items."""

    def add(self, items: Sequence[NewItem]) -> None:
        """Add items, recommended from the next request on; all or none."""

    def withdraw(self, item_ids: Sequence[str]) -> None:
        """Remove items from every answer from the next request on; all or none."""

    def restore(self, item_ids: Sequence[str]) -> None:
        """Recommend withdrawn items again; all or none."""
