"""Routes that change the served bundle and its items; they need an admin key."""

from __future__ import annotations

from fastapi import APIRouter

from serving.engine.interface import NewItem
from serving.http.requests import ItemsBody, ReloadBody
from serving.http.responses import Version, as_version, error_responses
from serving.http.service import Service, StrictRoute
from serving.runtime.item_updates import ItemUpdate


def admin_routes(service: Service) -> APIRouter:
    """POST /admin/reload, /admin/rollback and /admin/items."""
    router = APIRouter(prefix="/admin", route_class=StrictRoute, responses=error_responses(409, 415), tags=["admin"])
    runtime = service.runtime

    @router.post("/reload")
    async def reload(body: ReloadBody) -> Version:
        """Load another bundle, verify and warm it, then serve it; a bundle that fails changes nothing."""
        return as_version(await runtime.reload(body.source))

    @router.post("/rollback")
    async def rollback() -> Version:
        """Serve the previous bundle again."""
        return as_version(await runtime.rollback())

    @router.post("/items")
    async def items(body: ItemsBody) -> Version:
        """Add, withdraw and restore items from the next request on, also in later bundles."""
        new = [
            NewItem(item.item_id, item.texts, None if item.vector is None else tuple(item.vector)) for item in body.add
        ]
        update = ItemUpdate(tuple(new), tuple(body.withdraw), tuple(body.restore))
        return as_version(await runtime.update_items(update))

    return router
