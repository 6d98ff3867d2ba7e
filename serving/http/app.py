"""The HTTP application: routes, errors and admission around a runtime.

Reads the page's files from the package. `serving.http.server` runs it; any other ASGI server can.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recsys.errors import DataError, RecsysError
from serving.config import ServeConfig
from serving.http.admission import Admission, Gate
from serving.http.auth import ADMIN
from serving.http.errors import Code, HttpError
from serving.http.history_store import HistoryStore, StoreError
from serving.http.keys import Keys
from serving.http.responses import VERSION
from serving.http.routes_admin import admin_routes
from serving.http.routes_catalogue import catalogue_routes
from serving.http.routes_health import health_routes, page_routes
from serving.http.routes_recommend import recommend_routes
from serving.http.routes_users import user_routes
from serving.http.service import Service
from serving.release.deployment import ReloadInProgressError
from serving.runtime.item_updates import NotPersistedError
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, Unavailable

log = logging.getLogger(__name__)

REASONS: dict[str, tuple[Code, str]] = {
    "full": ("overloaded", "the server is busy; try again later"),
    "expired": ("expired", "the deadline passed before an answer; try again or raise deadline_ms"),
    "draining": ("draining", "the server is shutting down; try again"),
    "failed": ("failed", "the request could not be answered; try again"),
}
CODES: dict[int, Code] = {401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "too_large"}


def create_app(
    runtime: Runtime, config: ServeConfig, *, metrics: Metrics, store: HistoryStore, keys: Keys | None = None
) -> Admission:
    """The whole application; at shutdown it closes the store, but not the runtime, which shares the metrics.

    Without API keys, every request from this machine is admitted, and none from others.
    """
    gate = Gate(config.max_in_flight)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await store.close()

    app = FastAPI(
        title="recsys",
        version=VERSION,
        description="Generative recommendation over HTTP.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    service = Service(runtime, store, config, gate)
    for router in (
        recommend_routes(service),
        catalogue_routes(service),
        user_routes(service),
        admin_routes(service),
        health_routes(service, metrics),
        page_routes(),
    ):
        app.include_router(router)
    _handle_errors(app)
    if keys is not None:
        _describe_keys(app)
    return Admission(app, config, gate, metrics, keys)


def _describe_keys(app: FastAPI) -> None:
    """Describe in the OpenAPI schema how a key is sent."""
    schema = app.openapi()
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    schema["security"] = [{"bearer": []}, {"header": []}]


def _handle_errors(app: FastAPI) -> None:
    """Send every error as the same JSON."""

    async def handle(request: Request, error: Exception) -> Response:
        response = _as_http_error(error, request.url.path).response()
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    for kind in (HttpError, RequestValidationError, Unavailable, StoreError, RecsysError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def _as_http_error(error: Exception, path: str) -> HttpError:
    """Status, code and message of an error; what is not meant for the client is logged, and answered with 500."""
    match error:
        case HttpError():
            return error
        case RequestValidationError():
            return _invalid(error)
        case Unavailable():
            code, message = REASONS[error.reason]
            return HttpError(503, code, message, retry_after=error.retry_after)
        case StoreError():
            return HttpError(503, "failed", str(error), retry_after=1)
        case ReloadInProgressError():
            return HttpError(409, "conflict", str(error))
        case NotPersistedError():
            log.error("%s", error)
            return HttpError(500, "not_persisted", str(error))
        case HTTPException():
            return HttpError(error.status_code, CODES.get(error.status_code, "invalid"), str(error.detail))
        case RecsysError():
            if isinstance(error, DataError) or path.startswith(ADMIN):
                return HttpError(422, "invalid", str(error))
            log.error("a request failed: %s", error)
    return HttpError(500, "failed", "the request could not be answered")


def _invalid(error: RequestValidationError) -> HttpError:
    fields: dict[str, str] = {}
    for entry in error.errors():
        fields.setdefault(".".join(map(str, entry["loc"])), str(entry["msg"]).removeprefix("Value error, "))
    name, text = next(iter(fields.items()))
    return HttpError(422, "invalid", f"{name}: {text}", fields=fields)
