"""HTTP errors: one JSON body for all, precomputed as ASGI messages where refusing must be cheap."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from starlette.responses import Response

Code = Literal[
    "invalid",
    "unauthorized",
    "forbidden",
    "not_found",
    "conflict",
    "too_large",
    "rate_limited",
    "overloaded",
    "expired",
    "draining",
    "failed",
    "not_persisted",
]
Event = dict[str, Any]  # an ASGI message
Events = tuple[Event, Event]  # the start and the body of a response
MAX_FIELDS = 20
MAX_TEXT = 500


class HttpError(Exception):
    """An error response; `retry_after` in seconds, `fields` has a message for each invalid value."""

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        *,
        retry_after: float | None = None,
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.fields = retry_after, fields

    def response(self) -> Response:
        """The error as a response."""
        headers = {} if self.retry_after is None else {"Retry-After": whole_seconds(self.retry_after)}
        content = error_body(self.code, self.message, self.fields)
        return Response(content, self.status, headers, "application/json")


def error_body(code: Code, message: str, fields: dict[str, str] | None = None) -> bytes:
    """The JSON of an error: one line, bounded, ASCII (a name may hold lone surrogates)."""
    error: dict[str, Any] = {"code": code, "message": _line(message)}
    if fields:
        error["fields"] = {_line(name): _line(text) for name, text in list(fields.items())[:MAX_FIELDS]}
    return json.dumps({"error": error}).encode("ascii")


def error_events(
    status: int, code: Code, message: str, *, retry_after: float | None = None, close: bool = False
) -> Events:
    """The two ASGI messages of an error, which can be sent many times. `close` ends the connection."""
    body = error_body(code, message)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", whole_seconds(retry_after).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if close:
        headers.append((b"connection", b"close"))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    return start, {"type": "http.response.body", "body": body}


def whole_seconds(seconds: float) -> str:
    """For Retry-After: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))


def _line(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())[:MAX_TEXT]
