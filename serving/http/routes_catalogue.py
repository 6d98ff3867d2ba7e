"""Read-only routes of the catalogue and the bundle: items, title search, filters, version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from recsys.errors import DataError
from recsys.tables import LONGEST_ID
from serving.engine.interface import Engine, ItemMetadata, RankedItem
from serving.http.errors import HttpError
from serving.http.responses import (
    FilterValues,
    ItemDetails,
    Title,
    Titles,
    Value,
    Version,
    as_version,
    error_responses,
    ranked,
)
from serving.http.service import Service

NEIGHBOURS = 10


def catalogue_routes(service: Service) -> APIRouter:
    """GET /v1/items/ID, /v1/search, /v1/filters and /version."""
    router = APIRouter(responses=error_responses(404), tags=["catalogue"])
    runtime = service.runtime

    @router.get("/v1/items/{item_id:path}")
    async def item(item_id: Annotated[str, Path(min_length=1, max_length=LONGEST_ID)]) -> ItemDetails:
        """Metadata of an item, also of a withdrawn one, and similar items."""

        def read(engine: Engine) -> tuple[ItemMetadata, tuple[RankedItem, ...]]:
            return engine.item(item_id), engine.similar(item_id, NEIGHBOURS).items

        try:
            (metadata, neighbours), _ = await runtime.call(read, service.deadline(None))
        except DataError as error:
            raise HttpError(404, "not_found", str(error)) from error
        return ItemDetails(**vars(metadata), neighbours=ranked(neighbours))

    @router.get("/v1/search")
    def search(
        q: Annotated[str, Query(min_length=1, max_length=200)], limit: Annotated[int, Query(ge=1, le=50)] = 10
    ) -> Titles:
        """Items whose title has all words of `q`, titles that begin with it first."""
        found = runtime.engine.search(q, limit)
        return Titles(items=[Title(item_id=item.item_id, title=item.title) for item in found])

    @router.get("/v1/filters")
    def filters(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> FilterValues:
        """The most frequent values of each column that `where` can filter by."""
        engine = runtime.engine
        return FilterValues(
            columns={
                column: [Value(value=value, items=items) for value, items in engine.values(column, limit)]
                for column in engine.info.filters
            }
        )

    @router.get("/version")
    async def version() -> Version:
        """Version of the program and of the served bundle."""
        return as_version(runtime.engine.info)

    return router
