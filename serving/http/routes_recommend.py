"""Routes that answer with items: recommendations, similar items, and nearest-neighbour retrieval."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter

from recsys.ranking.notices import unknown_user
from serving.engine.interface import Notice, Request, Retrieval
from serving.http.history_store import StoreError
from serving.http.requests import RecommendBody, RetrieveBody, SimilarBody, as_where
from serving.http.responses import Neighbours, Recommendations, error_responses, noticed, ranked
from serving.http.service import Service, StrictRoute

NO_STORE = "history store unavailable"


def recommend_routes(service: Service) -> APIRouter:
    """POST /v1/recommend, /v1/similar and /v1/retrieve."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=error_responses(415), tags=["recommend"])
    runtime = service.runtime

    @router.post("/recommend")
    async def recommend(body: RecommendBody) -> Recommendations:
        """Items for a history, or for a user whose history is stored.

        An unknown user gets what a new visitor gets, and the notice `unknown-user`.
        """
        deadline = service.deadline(body.deadline_ms)
        store_error, about_user = None, tuple[Notice, ...]()
        history = tuple(body.history or ())
        if body.history is None and body.user_id is not None:
            try:
                history = await _stored(service, body.user_id, deadline)
                about_user = () if history else (unknown_user(body.user_id),)
            except StoreError:
                store_error = NO_STORE
        request = Request(history, body.k, body.user_id, tuple(body.exclude), body.exclude_seen, as_where(body.where))
        served = await runtime.recommend(request, deadline)
        reasons = [reason for reason in (store_error, served.degraded) if reason is not None]
        return Recommendations(
            items=ranked(served.answer.items),
            bundle=served.bundle,
            tier=served.tier,
            degraded=bool(reasons),
            reason="; ".join(reasons) or None,
            notices=noticed((*about_user, *served.answer.notices)),
            milliseconds={name: round(1000 * seconds, 3) for name, seconds in served.seconds.items()},
        )

    @router.post("/similar")
    async def similar(body: SimilarBody) -> Neighbours:
        """Items similar to one, itself left out."""
        where = as_where(body.where)
        found, bundle = await runtime.call(
            lambda engine: engine.similar(body.item_id, body.k, where), service.deadline(None)
        )
        return Neighbours(items=ranked(found.items), bundle=bundle, notices=noticed(found.notices))

    @router.post("/retrieve")
    async def retrieve(body: RetrieveBody) -> Neighbours:
        """The items nearest to a latent vector or to an item's, or the diffusion ranking of a history."""
        retrieval = Retrieval(
            body.k,
            None if body.vector is None else tuple(body.vector),
            None if body.history is None else tuple(body.history),
            body.item_id,
            body.user_id,
            as_where(body.where),
        )
        found, bundle = await runtime.call(lambda engine: engine.retrieve(retrieval), service.deadline(None))
        return Neighbours(items=ranked(found.items), bundle=bundle, notices=noticed(found.notices))

    return router


async def _stored(service: Service, user: str, deadline: float) -> tuple[str, ...]:
    """A user's history; the store gets half of the request's time."""
    try:
        async with asyncio.timeout((deadline - time.monotonic()) / 2):
            return await service.store.read(user, service.config.history_limit)
    except TimeoutError as error:
        raise StoreError(NO_STORE) from error
