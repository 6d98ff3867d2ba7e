"""The objects that all routes share, and a route class that parses JSON strictly."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pydantic_core
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from serving.config import ServeConfig
from serving.http.admission import Gate
from serving.http.errors import HttpError
from serving.http.history_store import HistoryStore
from serving.runtime.runtime import Runtime


class Service(NamedTuple):
    """The objects that answer requests."""

    runtime: Runtime
    store: HistoryStore
    config: ServeConfig
    gate: Gate

    def deadline(self, milliseconds: int | None) -> float:
        """The time.monotonic at which a request expires; None takes the default deadline."""
        limit = self.config.deadline_ms if milliseconds is None else milliseconds
        return time.monotonic() + min(limit, self.config.max_deadline_ms) / 1000


class StrictRequest(Request):
    """Parses standard JSON: no NaN, no lone surrogates, bounded nesting and numbers."""

    async def json(self) -> Any:
        """The parsed body; HTTPException 422 where it is not JSON."""
        try:
            return pydantic_core.from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(422, f"body: not JSON: {error}") from error


class StrictRoute(APIRoute):
    """A route whose body, if it has one, is JSON with that content type."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """As in FastAPI, with a `StrictRequest`."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if self.body_field is not None and kind != "application/json":
                raise HttpError(415, "invalid", f"content-type: got '{kind or 'none'}', application/json is needed")
            return await handler(StrictRequest(request.scope, request.receive))

        return strict
