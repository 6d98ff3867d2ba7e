"""What is answered over HTTP, errors included; `serving.client` returns the same objects."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ConfigDict

from serving.engine.interface import EngineInfo, RankedItem, Tier
from serving.http.errors import Code

VERSION = version("recsys")


class Reply(BaseModel):
    """Base of replies; a client passes over keys that it does not know."""

    model_config = ConfigDict(frozen=True)


class Item(Reply):
    """One item of a list, `rank` from 1. `source_scores` is what each ranking says of it, `tokens` its semantic id."""

    rank: int
    item_id: str
    title: str
    score: float
    source_scores: dict[str, float]
    tokens: list[str]


def ranked(items: tuple[RankedItem, ...]) -> list[Item]:
    """An engine's items, best first, as they are sent."""
    return [
        Item(
            rank=rank,
            item_id=item.item_id,
            title=item.title,
            score=item.score,
            source_scores=item.source_scores,
            tokens=list(item.tokens),
        )
        for rank, item in enumerate(items, start=1)
    ]


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Times as they are sent."""
    return {name: round(1000 * value, 3) for name, value in seconds.items()}


class Recommendations(Reply):
    """Items and how they came about; `reason` says why an answer is degraded, `ignored` holds unknown ids.

    `milliseconds` has `queue`, each source of the batch that the request was in, `fused` and `total`.
    """

    items: list[Item]
    bundle: str
    tier: Tier
    degraded: bool
    reason: str | None
    ignored: list[str]
    milliseconds: dict[str, float]


class Neighbours(Reply):
    """Nearest items, the score being the negative distance."""

    items: list[Item]
    bundle: str


class ItemDetails(Reply):
    """One item of the catalogue; `interactions` counts those of training."""

    item_id: str
    title: str
    texts: dict[str, str]
    tokens: list[str]
    interactions: int
    withdrawn: bool
    neighbours: list[Item]


class Title(Reply):
    """An item that a search found."""

    item_id: str
    title: str


class Titles(Reply):
    """What a search found."""

    items: list[Title]


class Value(Reply):
    """A value of a filter column, and how many items have it."""

    value: str
    items: int


class FilterValues(Reply):
    """The most frequent values of every filter column."""

    columns: dict[str, list[Value]]


class HistoryLength(Reply):
    """How many items are kept of a user."""

    user_id: str
    length: int


class History(Reply):
    """What is kept of a user, the oldest item first."""

    user_id: str
    history: list[str]


class Version(Reply):
    """What is served."""

    version: str
    bundle: str
    items: int
    routes: list[str]
    filters: list[str]
    settings: dict[str, str]


def as_version(info: EngineInfo) -> Version:
    """Facts of a bundle, and the program's version, as they are sent."""
    return Version(
        version=VERSION,
        bundle=info.bundle,
        items=info.items,
        routes=list(info.routes),
        filters=list(info.filters),
        settings=info.settings,
    )


class Status(Reply):
    """`alive` or `ready`."""

    status: str


class ErrorDetail(Reply):
    """What went wrong; `fields` has a message for each value that is not allowed."""

    code: Code
    message: str
    fields: dict[str, str] | None = None


class Error(Reply):
    """The body of every error."""

    error: ErrorDetail


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may send, for its OpenAPI."""
    return {status: {"model": Error} for status in (400, 401, 403, 408, 413, 422, 429, 500, 503, *statuses)}
