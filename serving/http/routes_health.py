"""Health and metrics routes, and the files of the web page."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter
from starlette.responses import Response

from serving.http.errors import HttpError
from serving.http.responses import Status, error_responses
from serving.http.service import Service
from serving.runtime.metrics import Metrics

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def health_routes(service: Service, metrics: Metrics) -> APIRouter:
    """GET /livez, /readyz and /metrics."""
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> Status:
        """Liveness: the process answers."""
        return Status(status="alive")

    @router.get("/readyz", responses=error_responses())
    async def readyz() -> Status:
        """Readiness: 503 while the server shuts down or has no bundle."""
        if service.gate.draining:
            raise HttpError(503, "draining", "the server is shutting down", retry_after=1)
        if not service.runtime.ready:
            raise HttpError(503, "failed", "the bundle is not ready", retry_after=1)
        return Status(status="ready")

    @router.get("/metrics", responses=error_responses() | {200: {"content": {"text/plain": {}}}})
    def read_metrics() -> Response:
        """Metrics in the Prometheus format."""
        content, kind = metrics.render()
        return Response(content, headers={"Content-Type": kind})

    return router


def page_routes() -> APIRouter:
    """GET / and /page/FILE: files of the package, read once."""
    router = APIRouter(include_in_schema=False)
    for file in (files("serving") / "page").iterdir():
        kind = KINDS.get(PurePath(file.name).suffix)
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            _add_file(router, path, file.read_bytes(), kind)
    return router


def _add_file(router: APIRouter, path: str, content: bytes, kind: str) -> None:
    async def read() -> Response:
        return Response(content, headers=PAGE_HEADERS | {"Content-Type": kind})

    router.add_api_route(path, read, methods=["GET", "HEAD"])
