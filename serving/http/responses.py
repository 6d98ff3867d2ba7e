"""Response bodies, errors included; `serving.client` returns the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ConfigDict

from serving.engine import interface
from serving.engine.interface import EngineInfo, NoticeCode, RankedItem, Tier
from serving.http.errors import Code

VERSION = version("recsys")


class ResponseBody(BaseModel):
    """Base of response bodies; a client ignores unknown keys."""

    model_config = ConfigDict(frozen=True)


class Item(ResponseBody):
    """One item of a list, `rank` from 1; `source_scores` has its score in each ranking, `tokens` its semantic id."""

    rank: int
    item_id: str
    title: str
    score: float
    source_scores: dict[str, float]
    tokens: list[str]


def ranked(items: tuple[RankedItem, ...]) -> list[Item]:
    """An engine's items, best first, as response items."""
    return [Item(rank=rank, **vars(item)) for rank, item in enumerate(items, start=1)]


class Notice(ResponseBody):
    """Why an answer is empty, short, or not about the one who asked.

    `item_ids` are the first of those that it is about; `counts` has numbers of items: `unknown` ids of `history`, or
    `asked`, `given`, `catalogue` and why they are fewer (`withdrawn`, `filtered`, `seen`, `excluded`, `unranked`).
    """

    code: NoticeCode
    message: str
    item_ids: list[str] = []
    counts: dict[str, int] = {}


def noticed(notices: Sequence[interface.Notice]) -> list[Notice]:
    """An engine's notices in a response."""
    return [Notice(**vars(notice)) for notice in notices]


class Recommendations(ResponseBody):
    """Items and how they were ranked; `reason` is why an answer is degraded, `notices` why it is short or general.

    `milliseconds` has `queue`, each source of the batch that the request was in, `fused` and `total`.
    """

    items: list[Item]
    bundle: str
    tier: Tier
    degraded: bool
    reason: str | None
    notices: list[Notice]
    milliseconds: dict[str, float]


class Neighbours(ResponseBody):
    """Nearest items; the score is the negative distance. `notices` has why they are fewer than asked for."""

    items: list[Item]
    bundle: str
    notices: list[Notice]


class ItemDetails(ResponseBody):
    """One item of the catalogue; `interactions` counts those of training."""

    item_id: str
    title: str
    texts: dict[str, str]
    tokens: list[str]
    interactions: int
    withdrawn: bool
    neighbours: list[Item]


class Title(ResponseBody):
    """A search result."""

    item_id: str
    title: str


class Titles(ResponseBody):
    """Search results."""

    items: list[Title]


class Value(ResponseBody):
    """A value of a filter column, and how many items have it."""

    value: str
    items: int


class FilterValues(ResponseBody):
    """The most frequent values of every filter column."""

    columns: dict[str, list[Value]]


class HistoryLength(ResponseBody):
    """Number of items stored for a user."""

    user_id: str
    length: int


class History(ResponseBody):
    """A user's stored history, the oldest item first."""

    user_id: str
    history: list[str]


class Version(ResponseBody):
    """Version of the program and metadata of the bundle that is served."""

    version: str
    bundle: str
    items: int
    routes: list[str]
    filters: list[str]
    settings: dict[str, str]


def as_version(info: EngineInfo) -> Version:
    """A bundle's metadata and the program's version as a response."""
    return Version(version=VERSION, **vars(info))


class Status(ResponseBody):
    """`alive` or `ready`."""

    status: str


class ErrorDetail(ResponseBody):
    """An error; `fields` has a message for each invalid value."""

    code: Code
    message: str
    fields: dict[str, str] | None = None


class Error(ResponseBody):
    """The body of every error."""

    error: ErrorDetail


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for OpenAPI."""
    return {status: {"model": Error} for status in (400, 401, 403, 408, 413, 422, 429, 500, 503, *statuses)}
