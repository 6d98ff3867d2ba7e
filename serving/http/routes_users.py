"""Routes of users' stored histories; nothing of them is logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool

from serving.engine.interface import Engine
from serving.http.requests import EventsBody
from serving.http.responses import History, HistoryLength, error_responses
from serving.http.service import Service, StrictRoute

UserId = Annotated[str, Path(min_length=1, max_length=256)]


def user_routes(service: Service) -> APIRouter:
    """POST /v1/events; GET and DELETE /v1/users/ID, which need an admin key."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=error_responses(415), tags=["users"])
    store = service.store

    @router.post("/events")
    async def events(ask: EventsBody) -> HistoryLength:
        """Append items to a user's history; all or none."""
        await run_in_threadpool(_check, service.runtime.engine, ask.item_ids)
        return HistoryLength(user_id=ask.user_id, length=await store.append(ask.user_id, ask.item_ids))

    @router.get("/users/{user_id:text}")
    async def history(user_id: UserId) -> History:
        """What is kept of a user."""
        kept = await store.read(user_id, service.config.history_limit)
        return History(user_id=user_id, history=list(kept))

    @router.delete("/users/{user_id:text}")
    async def forget(user_id: UserId) -> HistoryLength:
        """Delete all that is kept of a user; somebody unknown is forgotten already."""
        await store.forget(user_id)
        return HistoryLength(user_id=user_id, length=0)

    return router


def _check(engine: Engine, item_ids: Sequence[str]) -> None:
    """Raise DataError where the catalogue has not all of the items."""
    for item_id in item_ids:
        engine.item(item_id)
