"""Every input gets a response or a clear error: the OpenAPI schema fuzzed, and invalid bytes on the wire."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving.engine.interface import RankedItem, Request, Retrieval, Where
from tests.serving.endpoints import JSON, Endpoint, connected, endpoint, received, serving
from tests.serving.fakes import FakeEngine

EXAMPLES = 25  # of each route


class CheckingEngine(FakeEngine):
    """Checks filters everywhere, as the real one does."""

    def retrieve(self, retrieval: Retrieval) -> tuple[RankedItem, ...]:
        self.check(Request(where=retrieval.where))
        return super().retrieve(retrieval)

    def similar(self, item_id: str, k: int, where: Where = ()) -> tuple[RankedItem, ...]:
        self.check(Request(where=where))
        return super().similar(item_id, k, where)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(tmp_path_factory.mktemp("fuzz"), engine=CheckingEngine(), keep_alive_seconds=1) as parts:
        yield parts


@pytest.fixture(scope="module")
def url(parts: Endpoint) -> Iterator[str]:
    with serving(parts) as url:
        yield url


def strict(text: str) -> Any:
    """JSON as the standard has it."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def check(response: Any) -> None:
    """An answer in strict JSON; a server error only where it is meant, and then it can be tried again."""
    if response.headers.get("content-type") in ("application/json", ["application/json"]):
        strict(response.text)
    if response.status_code >= 500:
        assert response.status_code == 503, response.text
        assert json.loads(response.text)["error"]["code"] == "expired"
        assert "retry-after" in response.headers


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "routes"), [("positive", 16), ("negative", 11)])
def test_the_schema_can_be_fuzzed(url: str, mode: str, routes: int) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # A request may fit the schema and yet name items that do not exist, or have too little time.
    expected = [positive_data_acceptance, not_a_server_error]
    rejections = {"negative_data_rejection": {"expected-statuses": [404, 405, 413, 415, 422]}}
    config = schemathesis.Config.from_dict({"checks": rejections})
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    operations = [found.ok() for found in schema.get_all_operations()]
    if mode == "negative":  # of routes that are asked for something
        operations = [each for each in operations if {"requestBody", "parameters"} & set(each.definition.raw)]
    assert len(operations) == routes
    for operation in operations:

        @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def fuzz(case: Any) -> None:
            check(case.call_and_validate(excluded_checks=expected))

        fuzz()


def statuses(answer: bytes) -> list[int]:
    """Those of all responses of a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


RECOMMEND = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD = RECOMMEND + b'Content-Length: 15\r\n\r\n{"history": []}'
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/items/%ED%A0%80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/search?q=%ff%00%ED%A0%80&limit=%f0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/search?" + b"q=a&" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        RECOMMEND + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
        RECOMMEND + b"Content-Length: -5\r\n\r\n{}",
        RECOMMEND + b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
        RECOMMEND + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        RECOMMEND + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        RECOMMEND + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        RECOMMEND + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        GOOD + b"\x00\x01\x02 nonsense after a good one\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:60]),
)
def test_nonsense_on_the_wire_is_answered_or_hung_up_on(url: str, sent: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(sent)
        answer = received(connection)
    assert all(status < 500 for status in statuses(answer)), answer
    assert httpx.get(f"{url}/livez").status_code == 200


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(GOOD * 20 + RECOMMEND + b"Content-Length: 2\r\n\r\n{}" + GOOD + LAST)
        answer = received(connection)
    assert statuses(answer) == [200] * 20 + [422, 200, 200]


def test_a_client_may_disconnect_at_any_byte(url: str, parts: Endpoint) -> None:
    for length in range(0, len(GOOD), 7):
        with connected(url) as connection:
            connection.sendall(GOOD[:length])
    assert httpx.post(f"{url}/v1/recommend", json={"history": []}).status_code == 200


def test_bodies_broken_at_random_are_answered(url: str) -> None:
    generator = random.Random(0)
    body = json.dumps(
        {"history": ["i1", "ü", "\u0000"], "k": 3, "exclude": ["i2"], "where": {"categories": ["books"]}},
        ensure_ascii=False,
    ).encode()
    with httpx.Client(base_url=url) as client:
        for _ in range(300):
            broken = bytearray(body)
            for _ in range(generator.randint(1, 4)):
                place = generator.randrange(len(broken))
                broken[place : place + generator.randint(0, 3)] = generator.randbytes(generator.randint(0, 3))
            check(client.post("/v1/recommend", content=bytes(broken), headers=JSON))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "-1e400", "1" * 400, "null", '"1"', "true", "[1]"])
def test_numbers_that_are_none_are_refused(url: str, number: str) -> None:
    for path, body in [("/v1/retrieve", f'{{"vector": [{number}]}}'), ("/v1/recommend", f'{{"k": {number}}}')]:
        response = httpx.post(url + path, content=body, headers=JSON)
        assert response.status_code == 422
        check(response)


@pytest.mark.parametrize(
    "text", ["", " ", "日本", "👩‍👩‍👧", "\u202eabc", "\x00", "a" * 256, "%00", "../../etc/passwd", "<script>"]
)
def test_any_text_is_an_id(url: str, text: str) -> None:
    history = {"history": [text, "i1"] if text else ["i1"], "k": 1}
    response = httpx.post(f"{url}/v1/recommend", json=history)
    assert response.status_code == 200
    unknown = [notice["item_ids"] for notice in response.json()["notices"]]
    assert unknown == ([[text]] if text else [])
    check(httpx.get(f"{url}/v1/search", params={"q": text}))
    check(httpx.get(f"{url}/v1/items/{text}".replace("\x00", "%00").replace("%0", "%250")))
