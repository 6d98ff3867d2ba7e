"""Routes of users' stored histories; no user data is logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool

from recsys.tables import LONGEST_ID
from serving.engine.interface import Engine
from serving.http.requests import EventsBody
from serving.http.responses import History, HistoryLength, error_responses
from serving.http.service import Service, StrictRoute

UserId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID)]


def user_routes(service: Service) -> APIRouter:
    """POST /v1/events; GET and DELETE /v1/users/ID, which need an admin key."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=error_responses(415), tags=["users"])
    store = service.store

    @router.post("/events")
    async def events(body: EventsBody) -> HistoryLength:
        """Append items to a user's history; all or none."""
        await run_in_threadpool(_check, service.runtime.engine, body.item_ids)
        return HistoryLength(user_id=body.user_id, length=await store.append(body.user_id, body.item_ids))

    @router.get("/users/{user_id:path}")
    async def history(user_id: UserId) -> History:
        """A user's stored history."""
        stored = await store.read(user_id, service.config.history_limit)
        return History(user_id=user_id, history=list(stored))

    @router.delete("/users/{user_id:path}")
    async def forget(user_id: UserId) -> HistoryLength:
        """Delete a user's history; an unknown user has none."""
        await store.forget(user_id)
        return HistoryLength(user_id=user_id, length=0)

    return router


def _check(engine: Engine, item_ids: Sequence[str]) -> None:
    """Raise DataError where an item is not in the catalogue."""
    for item_id in item_ids:
        engine.item(item_id)
