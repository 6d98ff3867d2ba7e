"""What the routes share, and the route that reads JSON strictly."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pydantic_core
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor

from serving.config import ServeConfig
from serving.http.admission import Gate
from serving.http.errors import HttpError
from serving.http.history_store import HistoryStore
from serving.runtime.runtime import Runtime


class Service(NamedTuple):
    """The parts that answer requests."""

    runtime: Runtime
    store: HistoryStore
    config: ServeConfig
    gate: Gate

    def deadline(self, milliseconds: int | None) -> float:
        """When a request that asks for so much time, or for none, has to be answered; of time.monotonic."""
        wanted = self.config.deadline_ms if milliseconds is None else milliseconds
        return time.monotonic() + min(wanted, self.config.max_deadline_ms) / 1000


class TextConvertor(Convertor[str]):
    """The rest of a path, whatever it holds: Starlette's own `path` ends at a line break."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """From the path."""
        return value

    def to_string(self, value: str) -> str:
        """Into the path."""
        return value


register_url_convertor("text", TextConvertor())


class StrictRequest(Request):
    """Reads JSON as the standard has it: no NaN, no lone surrogates, no endless nesting or numbers."""

    async def json(self) -> Any:
        """The body's value.

        Raises:
            HTTPException: it is not JSON.
        """
        try:
            return pydantic_core.from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(422, f"body: not JSON: {error}") from error


class StrictRoute(APIRoute):
    """A route whose body, if it has one, is JSON and says so."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """As FastAPI's, with a strict request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            if self.body_field is not None:
                _check_type(request)
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(415, "invalid", f"content-type: got '{kind or 'none'}', application/json is needed")
