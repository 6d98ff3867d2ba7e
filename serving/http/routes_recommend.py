"""Routes that answer with items: recommendations, neighbours of an item, and FAISS alone."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter

from serving.engine.interface import Request, Retrieval
from serving.http.history_store import StoreError
from serving.http.requests import RecommendBody, RetrieveBody, SimilarBody, as_where
from serving.http.responses import Neighbours, Recommendations, error_responses, milliseconds, ranked
from serving.http.service import Service, StrictRoute

NO_STORE = "history store unavailable"


def recommend_routes(service: Service) -> APIRouter:
    """POST /v1/recommend, /v1/similar and /v1/retrieve."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=error_responses(415), tags=["recommend"])
    runtime = service.runtime

    @router.post("/recommend")
    async def recommend(ask: RecommendBody) -> Recommendations:
        """Items for a history, or for a user whose history is stored; somebody unknown gets an answer as well."""
        deadline = service.deadline(ask.deadline_ms)
        trouble = None
        history = tuple(ask.history or ())
        if ask.history is None and ask.user_id is not None:
            try:
                history = await _stored(service, ask.user_id, deadline)
            except StoreError:
                trouble = NO_STORE
        request = Request(history, ask.k, ask.user_id, tuple(ask.exclude), ask.exclude_seen, as_where(ask.where))
        served = await runtime.recommend(request, deadline)
        reasons = [reason for reason in (trouble, served.degraded) if reason is not None]
        return Recommendations(
            items=ranked(served.answer.items),
            bundle=served.bundle,
            tier=served.tier,
            degraded=bool(reasons),
            reason="; ".join(reasons) or None,
            ignored=list(served.answer.ignored),
            milliseconds=milliseconds(served.seconds),
        )

    @router.post("/similar")
    async def similar(ask: SimilarBody) -> Neighbours:
        """Items like one, itself left out."""
        where = as_where(ask.where)
        found, bundle = await runtime.call(
            lambda engine: engine.similar(ask.item_id, ask.k, where), service.deadline(None)
        )
        return Neighbours(items=ranked(found), bundle=bundle)

    @router.post("/retrieve")
    async def retrieve(ask: RetrieveBody) -> Neighbours:
        """The items nearest to a latent vector or to an item's, or the dense ranking of a history."""
        retrieval = Retrieval(
            ask.k,
            None if ask.vector is None else tuple(ask.vector),
            None if ask.history is None else tuple(ask.history),
            ask.item_id,
            ask.user_id,
            as_where(ask.where),
        )
        found, bundle = await runtime.call(lambda engine: engine.retrieve(retrieval), service.deadline(None))
        return Neighbours(items=ranked(found), bundle=bundle)

    return router


async def _stored(service: Service, user: str, deadline: float) -> tuple[str, ...]:
    """A user's history; a store that takes half of the request's time counts as one that does not answer."""
    try:
        async with asyncio.timeout((deadline - time.monotonic()) / 2):
            return await service.store.read(user, service.config.history_limit)
    except TimeoutError as error:
        raise StoreError(NO_STORE) from error
