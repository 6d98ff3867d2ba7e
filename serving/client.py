"""Python client of the endpoint: typed requests and responses, one kind of error. Reads and writes no files."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from serving.engine.interface import NewItem
from serving.http.responses import (
    Error,
    ErrorDetail,
    FilterValues,
    History,
    HistoryLength,
    ItemDetails,
    Neighbours,
    Recommendations,
    Status,
    Titles,
    Version,
)

M = TypeVar("M", bound=BaseModel)
RETRYABLE = frozenset({"overloaded", "draining"})  # refused before any work, so that a retry repeats nothing


class ApiError(Exception):
    """An error response; `status` 0 where the endpoint was not reached. `retry_after` in seconds, if it was sent."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


class Client:
    """One endpoint. Every method raises ApiError; use it as a context manager, or `close` it.

    A request that a busy server refuses unread is retried after its Retry-After with jitter, waiting at most
    `retry_seconds` per call.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout: float = 10.0,
        retry_seconds: float = 0.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`timeout` in seconds per attempt; `transport` replaces the network in tests."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, transport=transport)
        self._retry_seconds, self._sleep = retry_seconds, sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def recommend(
        self,
        history: Sequence[str] | None = None,
        *,
        user_id: str | None = None,
        k: int = 10,
        exclude: Sequence[str] = (),
        exclude_seen: bool | None = None,
        where: Mapping[str, Sequence[str]] | None = None,
        deadline_ms: int | None = None,
    ) -> Recommendations:
        """Items for a history, or for a user whose history is stored; `notices` has why they are few or general."""
        body = {
            "history": history,
            "user_id": user_id,
            "k": k,
            "exclude": list(exclude),
            "exclude_seen": exclude_seen,
            "where": _lists(where),
            "deadline_ms": deadline_ms,
        }
        return self._post("/v1/recommend", body, Recommendations)

    def similar(self, item_id: str, *, k: int = 10, where: Mapping[str, Sequence[str]] | None = None) -> Neighbours:
        """Items similar to one."""
        return self._post("/v1/similar", {"item_id": item_id, "k": k, "where": _lists(where)}, Neighbours)

    def retrieve(
        self,
        *,
        vector: Sequence[float] | None = None,
        history: Sequence[str] | None = None,
        item_id: str | None = None,
        k: int = 10,
        where: Mapping[str, Sequence[str]] | None = None,
        user_id: str | None = None,
    ) -> Neighbours:
        """The items nearest to a latent vector or an item, or the diffusion ranking of a history; give exactly one."""
        body = {"vector": vector, "history": history, "item_id": item_id, "user_id": user_id}
        return self._post("/v1/retrieve", body | {"k": k, "where": _lists(where)}, Neighbours)

    def item(self, item_id: str) -> ItemDetails:
        """Metadata of an item, and similar items."""
        return self._send("GET", f"/v1/items/{_segment(item_id)}", ItemDetails)

    def search(self, text: str, *, limit: int = 10) -> Titles:
        """Items by the words of their titles."""
        return self._send("GET", "/v1/search", Titles, params={"q": text, "limit": limit})

    def filters(self, *, limit: int = 50) -> FilterValues:
        """The values that `where` can filter by."""
        return self._send("GET", "/v1/filters", FilterValues, params={"limit": limit})

    def events(self, user_id: str, item_ids: Sequence[str]) -> HistoryLength:
        """Append items to a user's history."""
        return self._post("/v1/events", {"user_id": user_id, "item_ids": list(item_ids)}, HistoryLength)

    def history(self, user_id: str) -> History:
        """A user's stored history; needs an admin key."""
        return self._send("GET", f"/v1/users/{_segment(user_id)}", History)

    def forget(self, user_id: str) -> HistoryLength:
        """Delete a user's history; needs an admin key."""
        return self._send("DELETE", f"/v1/users/{_segment(user_id)}", HistoryLength)

    def version(self) -> Version:
        """Version of the program and of the bundle."""
        return self._send("GET", "/version", Version)

    def ready(self) -> bool:
        """Whether the endpoint is ready for requests; raises nothing."""
        try:
            return self._once("GET", "/readyz", Status).status == "ready"
        except ApiError:
            return False

    def reload(self, source: str | None = None) -> Version:
        """Serve another bundle; needs an admin key."""
        return self._post("/admin/reload", {"source": source}, Version)

    def rollback(self) -> Version:
        """Serve the previous bundle again; needs an admin key."""
        return self._send("POST", "/admin/rollback", Version)

    def update_items(
        self, *, add: Sequence[NewItem] = (), withdraw: Sequence[str] = (), restore: Sequence[str] = ()
    ) -> Version:
        """Add items, withdraw some, restore withdrawn ones; needs an admin key."""
        added = [
            {"item_id": item.item_id, "texts": item.texts, "vector": None if item.vector is None else list(item.vector)}
            for item in add
        ]
        change = {"add": added, "withdraw": list(withdraw), "restore": list(restore)}
        return self._post("/admin/items", change, Version)

    def _post(self, path: str, body: dict[str, Any], model: type[M]) -> M:
        given = {name: value for name, value in body.items() if value is not None}
        return self._send("POST", path, model, json=given)

    def _send(self, method: str, path: str, model: type[M], **rest: Any) -> M:
        """One call, retried while the server is busy."""
        left = self._retry_seconds
        while True:
            try:
                return self._once(method, path, model, **rest)
            except ApiError as error:
                wait = (error.retry_after or 1.0) * random.uniform(1.0, 1.25)
                if error.status != 503 or error.code not in RETRYABLE or wait > left:
                    raise
            left -= wait
            self._sleep(wait)

    def _once(self, method: str, path: str, model: type[M], **rest: Any) -> M:
        try:
            response = self._http.request(method, path, **rest)
        except httpx.HTTPError as error:
            raise ApiError(0, "unreachable", f"{self._http.base_url} does not answer ({error})") from error
        except ValueError as error:  # a NaN, or half a surrogate
            raise ApiError(0, "invalid", f"the request cannot be written as JSON ({error})") from error
        if not response.is_success:
            raise _api_error(response)
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise ApiError(response.status_code, "unreadable", f"{path}: unexpected response body") from error


def _api_error(response: httpx.Response) -> ApiError:
    wait = response.headers.get("retry-after", "")
    try:
        detail = Error.model_validate_json(response.content).error
    except ValidationError:
        detail = ErrorDetail(code="failed", message=f"no answer of this endpoint: {response.reason_phrase}")
    return ApiError(
        response.status_code, detail.code, detail.message, float(wait) if wait.isascii() and wait.isdigit() else None
    )


def _lists(where: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    return {column: list(values) for column, values in (where or {}).items()}


def _segment(name: str) -> str:
    """A name quoted as one path segment; `..` would be resolved as the parent."""
    return quote(name, safe="", errors="replace") if name.strip(".") else "%2E" * len(name)
