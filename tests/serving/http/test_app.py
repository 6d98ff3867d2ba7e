"""The HTTP contract: every route's response, one form of errors, and no user data in the log."""

import json
import logging
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ArtifactError, DataError
from serving.engine.interface import EngineInfo
from serving.http.history_store import StoreError
from serving.http.keys import create_key
from serving.release.deployment import ReloadInProgressError
from serving.runtime.item_updates import ItemUpdates
from tests.serving.endpoints import JSON, Endpoint, endpoint
from tests.serving.fakes import FakeEngine

SECRET = "user-4711-secret"
ADMIN_ROUTES = {
    ("post", "/admin/reload"),
    ("post", "/admin/rollback"),
    ("post", "/admin/items"),
    ("get", "/v1/users/{user_id}"),
    ("delete", "/v1/users/{user_id}"),
}
OPEN_ROUTES = {("get", "/livez"), ("get", "/readyz")}


class BrokenStore:
    """A store that does not answer."""

    async def append(self, user: str, item_ids: Sequence[str]) -> int:
        raise StoreError("the history store does not answer; try again")

    async def fill(self, histories: Collection[tuple[str, Sequence[str]]]) -> int:
        raise StoreError("the history store does not answer; try again")

    async def read(self, user: str, limit: int) -> tuple[str, ...]:
        raise StoreError("the history store does not answer; try again")

    async def forget(self, user: str) -> bool:
        raise StoreError("the history store does not answer; try again")

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path) as parts:
        yield parts


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error of a response, in the form that all have."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "fields"}
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


def test_recommendations_say_how_they_came_about(served: Endpoint) -> None:
    response = served.ask("POST", "/v1/recommend", json={"history": ["i1", "who"], "k": 2})
    body = response.json()
    assert ids(response) == ["i2", "i3"]
    assert body["items"][0] == {
        "rank": 1,
        "item_id": "i2",
        "title": "Item i2",
        "score": 1.0,
        "source_scores": {"diffusion": 1.0, "generative": 0.0},
        "tokens": ["<a_0>", "<b_2>"],
    }
    assert (body["bundle"], body["tier"], body["degraded"], body["reason"]) == ("fake", "full", False, None)
    assert [(notice["code"], notice["item_ids"]) for notice in body["notices"]] == [("unknown-items", ["who"])]
    assert set(body["milliseconds"]) == {"queue", "generative", "diffusion", "total"}
    assert body["milliseconds"]["generative"] == 2.0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"history": []}, ["i0", "i1"]),
        ({"history": ["i1"], "exclude": ["i2"]}, ["i3", "i4"]),
        ({"history": ["i28", "i29"], "exclude_seen": True, "where": {"categories": ["music"]}}, ["i2", "i5"]),
        ({"history": ["i1"], "deadline_ms": 60_000, "user_id": "u"}, ["i2", "i3"]),
        ({"user_id": "nobody"}, ["i0", "i1"]),
    ],
)
def test_recommendations_follow_the_request(served: Endpoint, asked: dict[str, Any], expected: list[str]) -> None:
    assert ids(served.ask("POST", "/v1/recommend", json={**asked, "k": 2})) == expected


def test_a_history_is_stored_read_and_forgotten(served: Endpoint) -> None:
    user = "a/b ü ?#%"
    path = "/v1/users/a%2Fb%20%C3%BC%20%3F%23%25"
    first = served.ask("POST", "/v1/events", json={"user_id": user, "item_ids": ["i3", "i7"]})
    assert first.json() == {"user_id": user, "length": 2}
    assert ids(served.ask("POST", "/v1/recommend", json={"user_id": user, "k": 1})) == ["i8"]
    given = {"user_id": user, "history": ["i1"], "k": 1}
    assert ids(served.ask("POST", "/v1/recommend", json=given)) == ["i2"], "a given history wins"
    assert served.ask("GET", path).json() == {"user_id": user, "history": ["i3", "i7"]}
    assert served.ask("DELETE", path).json() == {"user_id": user, "length": 0}
    assert served.ask("GET", path).json()["history"] == []


def test_an_event_with_an_unknown_item_stores_nothing(served: Endpoint) -> None:
    response = served.ask("POST", "/v1/events", json={"user_id": "u", "item_ids": ["i3", "who"]})
    assert "'who'" in error_of(response, 422)["message"]
    assert served.ask("GET", "/v1/users/u").json()["history"] == []


def test_neighbours_by_item_history_and_vector(served: Endpoint) -> None:
    assert ids(served.ask("POST", "/v1/similar", json={"item_id": "i4", "k": 2})) == ["i5", "i6"]
    assert ids(served.ask("POST", "/v1/retrieve", json={"item_id": "i4", "k": 1})) == ["i5"]
    assert ids(served.ask("POST", "/v1/retrieve", json={"history": ["i6"], "k": 1})) == ["i7"]
    response = served.ask("POST", "/v1/retrieve", json={"vector": [0.5, 1], "k": 1, "where": {"categories": ["music"]}})
    assert ids(response) == ["i2"]
    assert response.json()["bundle"] == "fake"


def test_an_item_is_described(served: Endpoint) -> None:
    body = served.ask("GET", "/v1/items/i5").json()
    assert (body["title"], body["texts"]["categories"], body["tokens"]) == ("Item i5", "music", ["<a_0>", "<b_5>"])
    assert (body["interactions"], body["withdrawn"]) == (5, False)
    assert [item["item_id"] for item in body["neighbours"]][:2] == ["i6", "i7"]
    assert error_of(served.ask("GET", "/v1/items/who"), 404)["code"] == "not_found"
    assert error_of(served.ask("GET", "/v1/items/a%2Fb"), 404)["code"] == "not_found"


def test_titles_filters_and_version(served: Endpoint) -> None:
    found = served.ask("GET", "/v1/search", params={"q": "item i2", "limit": 3}).json()
    assert found["items"][0] == {"item_id": "i2", "title": "Item i2"}
    assert len(found["items"]) == 3
    values = served.ask("GET", "/v1/filters", params={"limit": 1}).json()
    assert values == {"columns": {"categories": [{"value": "books", "items": 10}]}}
    version = served.ask("GET", "/version").json()
    assert (version["bundle"], version["items"], version["filters"]) == ("fake", 30, ["categories"])


def test_items_are_added_and_withdrawn(served: Endpoint) -> None:
    change = {"add": [{"item_id": "new", "texts": {"title": "Newest"}}], "withdraw": ["i2"]}
    assert served.ask("POST", "/admin/items", json=change).json()["items"] == 30
    assert ids(served.ask("POST", "/v1/recommend", json={"history": ["i1"], "k": 1})) == ["i3"]
    assert served.ask("GET", "/v1/items/i2").json()["withdrawn"] is True
    assert served.ask("GET", "/v1/items/new").json()["title"] == "Newest"
    again = served.ask("POST", "/admin/items", json={"add": [{"item_id": "newer"}], "withdraw": ["who"]})
    assert "already applied: add" in error_of(again, 422)["message"]


def test_a_bundle_is_replaced_and_rolled_back(served: Endpoint) -> None:
    assert error_of(served.ask("POST", "/admin/rollback"), 422)["code"] == "invalid"
    assert served.ask("POST", "/admin/reload", json={"source": "elsewhere"}).json()["bundle"] == "next"
    assert served.ask("GET", "/version").json()["bundle"] == "next"
    assert served.ask("POST", "/admin/rollback").json()["bundle"] == "fake"


def test_a_bad_bundle_is_refused_with_its_reason(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(source: str | None) -> None:
        raise ArtifactError("bundle.json is corrupted")

    monkeypatch.setattr(served.runtime, "reload", refuse)
    error = error_of(served.ask("POST", "/admin/reload", json={}), 422)
    assert error == {"code": "invalid", "message": "bundle.json is corrupted"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/recommend", {}, "body"),
        ("/v1/recommend", {"history": None}, "body"),
        ("/v1/recommend", {"history": ["i1"], "k": 0}, "body.k"),
        ("/v1/recommend", {"history": ["i1"], "k": 101}, "body.k"),
        ("/v1/recommend", {"history": ["i1"], "k": "10"}, "body.k"),
        ("/v1/recommend", {"history": ["i1"], "k": 10**30}, "body.k"),
        ("/v1/recommend", {"history": ["i1"], "surprise": 1}, "body.surprise"),
        ("/v1/recommend", {"history": [1]}, "body.history.0"),
        ("/v1/recommend", {"history": ["x" * 257]}, "body.history.0"),
        ("/v1/recommend", {"history": ["x"] * 1001}, "body.history"),
        ("/v1/recommend", {"history": ["i1"], "exclude": ["x"] * 1001}, "body.exclude"),
        ("/v1/recommend", {"history": [], "where": {str(n): ["x"] for n in range(9)}}, "body.where"),
        ("/v1/recommend", {"history": [], "where": {"categories": []}}, "body.where.categories"),
        ("/v1/recommend", {"history": [], "deadline_ms": 60_001}, "body.deadline_ms"),
        ("/v1/retrieve", {"item_id": "i1", "history": []}, "body"),
        ("/v1/retrieve", {"vector": []}, "body.vector"),
        ("/v1/retrieve", {"vector": [0.0] * 4097}, "body.vector"),
        ("/v1/events", {"user_id": "u", "item_ids": []}, "body.item_ids"),
        ("/v1/events", {"user_id": "", "item_ids": ["i1"]}, "body.user_id"),
        ("/admin/items", {}, "body"),
        ("/admin/items", {"add": [{"item_id": "n"}] * 101}, "body.add"),
    ],
)
def test_what_is_out_of_bounds_is_named(served: Endpoint, path: str, body: dict[str, Any], field: str) -> None:
    error = error_of(served.ask("POST", path, json=body), 422)
    assert error["code"] == "invalid"
    assert field in error["fields"]
    assert not served.engine.calls


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"history": NaN}',
        b'{"history": [], "k": -Infinity}',
        b'{"history": ["\\ud800"]}',
        b'{"\\ud800": 1}',
        b'{"history": ["\xff"]}',
        b'{"history": [], "k": ' + b"9" * 5000 + b"}",
        b'{"history": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_not_strict_json_is_refused(served: Endpoint, content: bytes) -> None:
    assert error_of(served.ask("POST", "/v1/recommend", content=content, headers=JSON), 422)["code"] == "invalid"


def test_numbers_beyond_all_bounds_are_refused(served: Endpoint) -> None:
    response = served.ask("POST", "/v1/retrieve", content=b'{"vector": [1e999]}', headers=JSON)
    assert "body.vector.0" in error_of(response, 422)["fields"]


def test_a_reload_during_a_reload_is_a_conflict(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    async def reload(source: str | None) -> EngineInfo:
        raise ReloadInProgressError("a reload is in progress; wait until it has ended and try again")

    monkeypatch.setattr(served.runtime, "reload", reload)
    error = error_of(served.ask("POST", "/admin/reload", json={}), 409)
    assert (error["code"], error["message"][:24]) == ("conflict", "a reload is in progress;")


def test_an_update_that_is_not_persisted_is_not_reported_as_invalid(tmp_path: Path) -> None:
    updates = ItemUpdates(tmp_path / "updates.sqlite")
    with endpoint(tmp_path, updates=updates) as parts, closing(sqlite3.connect(tmp_path / "updates.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        error = error_of(parts.ask("POST", "/admin/items", json={"withdraw": ["i1"]}), 500)
        assert error["code"] == "not_persisted"
        assert "applied but not persisted" in error["message"]
        assert parts.ask("GET", "/v1/items/i1").json()["withdrawn"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", None])
def test_another_content_type_is_refused(served: Endpoint, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    error = error_of(served.ask("POST", "/v1/recommend", content=b'{"history": []}', headers=headers), 415)
    assert "application/json is needed" in error["message"]


def test_unknown_paths_and_methods(served: Endpoint) -> None:
    assert error_of(served.ask("GET", "/nothing"), 404)["code"] == "not_found"
    assert error_of(served.ask("GET", "/v1/items/"), 422)["code"] == "invalid"
    response = served.ask("PUT", "/v1/recommend", json={})
    assert error_of(response, 405)["code"] == "invalid"
    assert response.headers["allow"] == "POST"


def test_what_the_engine_refuses_is_reported(served: Endpoint) -> None:
    response = served.ask("POST", "/v1/recommend", json={"history": [], "where": {"colour": ["red"]}})
    assert "'colour'" in error_of(response, 422)["message"]
    assert "'who'" in error_of(served.ask("POST", "/v1/similar", json={"item_id": "who"}), 422)["message"]


def test_an_expired_request_may_be_tried_again(served: Endpoint) -> None:
    with served.engine.hold():
        response = served.ask("POST", "/v1/recommend", json={"history": [], "deadline_ms": 20})
    assert error_of(response, 503)["code"] == "expired"
    assert int(response.headers["retry-after"]) >= 1


def test_a_failed_tier_degrades_the_answer(served: Endpoint) -> None:
    served.engine.failures["full"] = RuntimeError("broken")
    body = served.ask("POST", "/v1/recommend", json={"history": ["i1"]}).json()
    assert (body["tier"], body["degraded"], body["reason"]) == ("narrow", True, "failure: RuntimeError")


def test_a_broken_store_degrades_recommendations_and_refuses_events(tmp_path: Path) -> None:
    with endpoint(tmp_path, store=BrokenStore()) as parts:
        body = parts.ask("POST", "/v1/recommend", json={"user_id": "u", "k": 1}).json()
        assert (body["items"][0]["item_id"], body["degraded"]) == ("i0", True)
        assert body["reason"] == "history store unavailable"
        response = parts.ask("POST", "/v1/events", json={"user_id": "u", "item_ids": ["i1"]})
        assert error_of(response, 503)["code"] == "failed"
        assert response.headers["retry-after"] == "1"


def test_readiness_follows_the_gate_and_the_runtime(served: Endpoint) -> None:
    assert served.ask("GET", "/readyz").json() == {"status": "ready"}
    served.app.gate.draining = True
    assert error_of(served.ask("GET", "/readyz"), 503)["code"] == "draining"
    served.app.gate.draining = False
    served.runtime.close()
    assert error_of(served.ask("GET", "/readyz"), 503)["code"] == "failed"
    assert served.ask("GET", "/livez").json() == {"status": "alive"}
    assert error_of(served.ask("POST", "/v1/recommend", json={"history": []}), 503)["code"] == "draining"


def test_metrics_count_by_route_not_by_path(served: Endpoint) -> None:
    served.ask("GET", f"/v1/items/{SECRET}")
    response = served.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'recsys_requests_total{code="404",route="/v1/items/{item_id:path}"} 1.0' in response.text
    assert SECRET not in response.text


def test_the_page_comes_with_its_policy(served: Endpoint) -> None:
    for path, kind in [("/", "text/html"), ("/page/style.css", "text/css"), ("/page/app.js", "text/javascript")]:
        response = served.ask("GET", path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
    assert served.ask("GET", "/page/..%2fapp.py").status_code == 404


def test_every_route_requires_its_scope(tmp_path: Path) -> None:
    reader = create_key(tmp_path / "keys.json", "reader", "read")
    with endpoint(tmp_path, keys=tmp_path / "keys.json") as parts:
        schema = parts.ask("GET", "/openapi.json", key=reader).json()
        assert set(schema["components"]["securitySchemes"]) == {"bearer", "header"}
        paths = schema["paths"]
        routes = {(method, path) for path, methods in paths.items() for method in methods}
        assert routes >= ADMIN_ROUTES | OPEN_ROUTES
        for method, path in routes:
            concrete = path.replace("{user_id}", "u").replace("{item_id}", "i1")
            without = parts.ask(method.upper(), concrete).status_code
            assert (without == 401) == ((method, path) not in OPEN_ROUTES), path
            assert (parts.ask(method.upper(), concrete, key=reader).status_code == 403) == (
                (method, path) in ADMIN_ROUTES
            ), path
        assert parts.ask("GET", "/").status_code == 200


def test_an_admin_key_may_do_everything(tmp_path: Path) -> None:
    admin = create_key(tmp_path / "keys.json", "boss", "admin")
    with endpoint(tmp_path, keys=tmp_path / "keys.json") as parts:
        assert parts.ask("POST", "/admin/reload", key=admin, json={}).status_code == 200
        assert parts.ask("GET", "/v1/users/u", headers={"X-API-Key": admin}).status_code == 200
        assert parts.ask("GET", "/metrics", key=admin).status_code == 200
        assert error_of(parts.ask("GET", "/metrics", key="rsk_wrong"), 401)["code"] == "unauthorized"


def test_nothing_of_users_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = create_key(tmp_path / "keys.json", "boss", "admin")
    caplog.set_level(logging.DEBUG)
    with endpoint(tmp_path, engine=FakeEngine(items=5), keys=tmp_path / "keys.json") as parts:
        parts.engine.failures |= {tier: RuntimeError(SECRET) for tier in parts.engine.tiers}
        parts.ask("POST", "/v1/recommend", key=key, json={"history": [SECRET], "user_id": SECRET})
        parts.ask("POST", "/v1/events", key=key, json={"user_id": SECRET, "item_ids": ["i1"]})
        parts.ask("POST", "/v1/recommend", key=key, json={SECRET: 1})
        parts.ask("GET", f"/v1/users/{SECRET}?q={SECRET}", key=key)
        parts.ask("GET", f"/{SECRET}", key=key)
    written = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    assert "POST /v1/recommend 503" in written
    assert "GET /v1/users/{user_id:path} 200" in written
    assert SECRET not in written
    assert key not in written


def test_a_bug_is_one_clean_error(
    served: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str, limit: int) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(served.engine, "search", broken)
    assert error_of(served.ask("GET", "/v1/search", params={"q": SECRET}), 500)["code"] == "failed"
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text
    monkeypatch.setattr(served.engine, "search", lambda text, limit: (_ for _ in ()).throw(DataError("not so")))
    assert error_of(served.ask("GET", "/v1/search", params={"q": "x"}), 422)["message"] == "not so"


def test_the_schema_is_bounded_and_has_examples(served: Endpoint) -> None:
    schema = served.ask("GET", "/openapi.json").json()
    asks = {name: model for name, model in schema["components"]["schemas"].items() if name.endswith("Body")}
    assert len(asks) == 7
    for name, model in asks.items():
        assert model["additionalProperties"] is False, name
        assert name == "NewItemBody" or model["examples"], name
    for methods in schema["paths"].values():
        for operation in methods.values():
            assert "HTTPValidationError" not in json.dumps(operation)
