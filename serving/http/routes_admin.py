"""Routes that change what is served; they need an admin key."""

from __future__ import annotations

from fastapi import APIRouter

from serving.engine.interface import NewItem
from serving.http.requests import ItemsBody, ReloadBody
from serving.http.responses import Version, as_version, error_responses
from serving.http.service import Service, StrictRoute
from serving.runtime.item_updates import ItemUpdate


def admin_routes(service: Service) -> APIRouter:
    """POST /admin/reload, /admin/rollback and /admin/items."""
    router = APIRouter(prefix="/admin", route_class=StrictRoute, responses=error_responses(415), tags=["admin"])
    runtime = service.runtime

    @router.post("/reload")
    async def reload(ask: ReloadBody) -> Version:
        """Serve another bundle, once it is verified, warm and tested; one that is not good changes nothing."""
        return as_version(await runtime.reload(ask.source))

    @router.post("/rollback")
    async def rollback() -> Version:
        """Serve the bundle again that was served before."""
        return as_version(await runtime.rollback())

    @router.post("/items")
    async def items(ask: ItemsBody) -> Version:
        """Add, withdraw and restore items, from the next request on; it holds for later bundles and after a restart."""
        new = [
            NewItem(item.item_id, item.texts, None if item.vector is None else tuple(item.vector)) for item in ask.add
        ]
        change = ItemUpdate(tuple(new), tuple(ask.withdraw), tuple(ask.restore))
        return as_version(await runtime.change(change))

    return router
