"""The client against a real server, and its retries against a fake one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from serving.client import ApiError, Client
from serving.engine.interface import NewItem
from serving.http.keys import create_key
from tests.serving.endpoints import Endpoint, endpoint, serving

BUSY = {"error": {"code": "overloaded", "message": "busy"}}
Answer = tuple[int, dict[str, object], dict[str, str]]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path) as parts:
        yield parts


@pytest.fixture
def client(parts: Endpoint) -> Iterator[Client]:
    with serving(parts) as url, Client(url) as client:
        yield client


def test_every_question_has_its_answer(client: Client) -> None:
    found = client.recommend(["i1", "who"], k=2, exclude=["i2"], where={"categories": ["books", "games"]})
    assert [item.item_id for item in found.items] == ["i3", "i4"]
    assert (found.tier, found.bundle) == ("full", "fake")
    assert [(notice.code, notice.item_ids) for notice in found.notices] == [("unknown-items", ["who"])]
    assert client.recommend([], k=1).items[0].item_id == "i0"
    assert [item.item_id for item in client.similar("i4", k=1).items] == ["i5"]
    assert client.retrieve(vector=[0.0, 1.0], k=1).items[0].rank == 1
    assert client.retrieve(history=["i6"], k=1).items[0].item_id == "i7"
    assert client.item("i5").title == "Item i5"
    assert client.search("item i7").items[0].item_id == "i7"
    assert client.filters(limit=1).columns["categories"][0].items == 10
    assert client.version().bundle == "fake"
    assert client.ready()


@pytest.mark.parametrize("user", ["ann", "a/b", "..", ".", "a?b#c%2F", "ü 日", "/", "a\\b"])
def test_a_user_may_have_any_name(client: Client, user: str) -> None:
    assert client.events(user, ["i3", "i5"]).length == 2
    assert client.history(user).history == ["i3", "i5"]
    assert client.recommend(user_id=user, k=1).items[0].item_id == "i6"
    assert client.forget(user).length == 0
    assert client.history(user).history == []


@pytest.mark.parametrize("user", ["a\nb", "a\n", "\n"])
def test_a_line_break_in_a_name_never_means_another_user(client: Client, user: str) -> None:
    client.events("a", ["i3"])
    for call in (lambda: client.events(user, ["i5"]), lambda: client.history(user), lambda: client.forget(user)):
        with pytest.raises(ApiError, match="422 invalid"):
            call()
    assert client.history("a").history == ["i3"]


def test_an_administrator_changes_what_is_served(client: Client) -> None:
    assert client.update_items(add=[NewItem("a/b", {"title": "New"})], withdraw=["i2"]).items == 30
    assert client.item("a/b").title == "New"
    assert client.item("i2").withdrawn
    assert client.update_items(restore=["i2"]).items == 31
    assert not client.item("i2").withdrawn
    assert client.reload().bundle == "next"
    assert client.rollback().bundle == "fake"


def test_errors_are_of_one_kind(client: Client) -> None:
    with pytest.raises(ApiError, match="404 not_found: item_id: got 'who'") as caught:
        client.item("who")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    with pytest.raises(ApiError, match=r"body\.k"):
        client.recommend([], k=0)


def test_a_key_is_sent(tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.json", "ann", "read")
    with endpoint(tmp_path, keys=tmp_path / "keys.json") as parts, serving(parts) as url:
        with Client(url, key=key) as client:
            assert client.version().bundle == "fake"
            with pytest.raises(ApiError, match="403 forbidden"):
                client.rollback()
        with Client(url) as client, pytest.raises(ApiError, match="401 unauthorized"):
            client.version()


def test_an_unreachable_endpoint_is_an_error_and_not_ready() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with Client("http://nowhere", transport=httpx.MockTransport(refuse)) as client:
        assert not client.ready()
        with pytest.raises(ApiError, match="does not answer") as caught:
            client.version()
    assert caught.value.status == 0


def made_up(*answers: Answer) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that gives these answers, then that of a version; and what it was asked."""
    asked: list[httpx.Request] = []
    version = {"version": "1", "bundle": "b", "items": 1, "routes": [], "filters": [], "settings": {}, "later": 1}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status, body, headers = answers[len(asked) - 1] if len(asked) <= len(answers) else (200, version, {})
        return httpx.Response(status, json=body, headers=headers)

    return httpx.MockTransport(answer), asked


def retrying(transport: httpx.MockTransport, seconds: float) -> tuple[Client, list[float]]:
    """A client that notes how long it would have waited."""
    waited: list[float] = []
    return Client("http://x", transport=transport, retry_seconds=seconds, sleep=waited.append), waited


def test_a_busy_server_is_retried_after_retry_after() -> None:
    transport, asked = made_up((503, BUSY, {"Retry-After": "2"}), (503, BUSY, {}))
    client, waited = retrying(transport, 10)
    with client:
        assert client.version().bundle == "b", "and keys that the client does not know are passed over"
    assert len(asked) == 3
    assert 2.0 <= waited[0] <= 2.5
    assert 1.0 <= waited[1] <= 1.25


def test_patience_has_an_end() -> None:
    transport, asked = made_up(*[(503, BUSY, {"Retry-After": "4"})] * 9)
    client, waited = retrying(transport, 10)
    with client, pytest.raises(ApiError) as caught:
        client.version()
    assert (caught.value.code, caught.value.retry_after) == ("overloaded", 4.0)
    assert len(asked) == len(waited) + 1
    assert 0 < sum(waited) <= 10


@pytest.mark.parametrize("call", [lambda c: c.version(), lambda c: c.events("u", ["i1"])], ids=["version", "events"])
@pytest.mark.parametrize(
    ("status", "code"), [(503, "failed"), (503, "expired"), (429, "rate_limited"), (500, "failed")]
)
def test_only_requests_refused_unread_are_retried(call: Callable[[Client], object], status: int, code: str) -> None:
    transport, asked = made_up((status, {"error": {"code": code, "message": "no"}}, {"Retry-After": "1"}))
    client, waited = retrying(transport, 10)
    with client, pytest.raises(ApiError, match=code):
        call(client)
    assert (len(asked), waited) == (1, [])


def test_an_answer_of_something_else_is_an_error() -> None:
    for response in (httpx.Response(200, text="<html>"), httpx.Response(502, text="Bad gateway")):
        transport = httpx.MockTransport(lambda request, response=response: response)
        with Client("http://x", transport=transport) as client, pytest.raises(ApiError) as caught:
            client.version()
        assert caught.value.status == response.status_code
