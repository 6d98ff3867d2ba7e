"""The server as a process: addresses, graceful stop, and clients that are slow, disconnected or invalid."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from recsys.errors import ArtifactError, ConfigError
from serving.config import ServeConfig
from serving.http.keys import Keys, create_key
from serving.http.server import check_exposure, listening, serve
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig
from tests.serving.endpoints import Endpoint, connected, endpoint, received, serving
from tests.serving.fakes import PATIENCE, FakeEngine

ROOT = Path(__file__).parent.parent.parent.parent
BODY = {"history": ["i1"], "k": 1, "deadline_ms": 60_000}
PROGRAM = """
import sys, threading
from serving.config import ServeConfig
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig
from serving.http.server import serve
from tests.serving.fakes import FakeEngine

engine, metrics = FakeEngine(), Metrics()
runtime = Runtime(engine, RuntimeConfig(warm_requests=0), metrics=metrics, load=lambda source: engine)

def hold():
    with engine.hold():
        holding.set()
        sys.stdin.readline()

holding = threading.Event()
threading.Thread(target=hold, daemon=True).start()
holding.wait()
config = ServeConfig(port=0, store=sys.argv[1], drain_seconds=float(sys.argv[2]))
serve(runtime, config, metrics=metrics, announce=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_may_be_served_without_keys(host: str) -> None:
    check_exposure(ServeConfig(host=host), None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_other_machines_are_served_with_keys_only(host: str, tmp_path: Path) -> None:
    config = ServeConfig(host=host)
    for keys in (None, Keys([])):
        with pytest.raises(ConfigError, match="recsys keys create"):
            check_exposure(config, keys)
    create_key(tmp_path / "keys.json", "ann", "read")
    check_exposure(config, Keys.load(tmp_path / "keys.json"))


def test_what_cannot_be_served_is_reported_and_the_runtime_closed(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for config, error, words in [
        (ServeConfig(port=port), ConfigError, "cannot listen on 127"),
        (ServeConfig(host="0.0.0.0"), ConfigError, "no keys"),
        (ServeConfig(keys=tmp_path / "none.json"), ArtifactError, "recsys keys create"),
        (ServeConfig(port=0, store=f"sqlite:///{tmp_path}"), ConfigError, "cannot be used"),
    ]:
        metrics = Metrics()
        runtime = Runtime(
            FakeEngine(), RuntimeConfig(warm_requests=0), metrics=metrics, load=lambda source: FakeEngine()
        )
        with pytest.raises(error, match=words):
            serve(runtime, config, metrics=metrics)
        assert not runtime.ready
    taken.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"deadline_ms": 2000, "max_deadline_ms": 1000}, "at most max_deadline_ms"),
        ({"store": "mysql://host"}, "store"),
        ({"port": 65536}, "port"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServeConfig.model_validate(settings)


@contextmanager
def process(folder: Path, drain_seconds: float = 60) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server whose engine holds every batch until a line comes on its standard input."""
    command = [sys.executable, "-c", PROGRAM, f"sqlite:///{folder}/h.sqlite", str(drain_seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def until(url: str, path: str, words: str) -> httpx.Response:
    """Repeat a GET until the response has some words."""
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        while words not in (response := client.get(path)).text:
            pass
        return response


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_loses_no_admitted_request(tmp_path: Path, sent: signal.Signals) -> None:
    with process(tmp_path) as (running, url), ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(httpx.post, f"{url}/v1/recommend", json=BODY, timeout=PATIENCE) for _ in range(8)]
        until(url, "/metrics", "recsys_in_flight 9.0")
        running.send_signal(sent)
        assert until(url, "/readyz", "draining").status_code == 503
        refused = httpx.post(f"{url}/v1/recommend", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert httpx.get(f"{url}/livez").status_code == 200
        assert not any(future.done() for future in asked)
        out, _ = running.communicate("go\n", timeout=PATIENCE)
        assert {future.result().status_code for future in asked} == {200}
        assert (running.returncode, out) == (0, "ended\n")


def test_the_second_signal_does_not_wait(tmp_path: Path) -> None:
    with process(tmp_path) as (running, url), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}/v1/recommend", json=BODY, timeout=PATIENCE)
        until(url, "/metrics", "recsys_in_flight 2.0")
        running.send_signal(signal.SIGINT)
        until(url, "/readyz", "draining")
        running.send_signal(signal.SIGINT)
        assert asked.result().json()["error"]["code"] == "failed"
        running.communicate("go\n", timeout=PATIENCE)


def test_draining_has_an_end(tmp_path: Path) -> None:
    with process(tmp_path, drain_seconds=0.1) as (running, url), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}/v1/recommend", json=BODY, timeout=PATIENCE)
        until(url, "/metrics", "recsys_in_flight 2.0")
        running.send_signal(signal.SIGTERM)
        assert asked.result().json()["error"]["code"] == "failed"
        out, _ = running.communicate("go\n", timeout=PATIENCE)
        assert (running.returncode, out) == (0, "ended\n")


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path, header_seconds=0.2, body_seconds=0.2, max_body_bytes=4096) as parts:
        yield parts


HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /li", b"GET /livez HTTP/1.1\r\nHost: loc", HEAD])
def test_slow_headers_close_the_connection(hasty: Endpoint, sent: bytes) -> None:
    with serving(hasty) as url, connected(url) as connection:
        connection.sendall(sent)
        assert received(connection) == b""


def test_slow_headers_close_the_connection_after_another_request_too(hasty: Endpoint) -> None:
    with serving(hasty) as url, connected(url) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"GET /li")
        assert b"HTTP/1.1" not in received(connection)


def test_slow_bodies_get_408(hasty: Endpoint) -> None:
    with serving(hasty) as url, connected(url) as connection:
        connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"history"')
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "expired"' in answer
        assert httpx.get(f"{url}/livez").status_code == 200
    assert hasty.app.gate.in_flight == 0


def test_endless_headers_close_the_connection(hasty: Endpoint) -> None:
    with serving(hasty) as url, connected(url) as connection:
        with pytest.raises(OSError, match=r"reset|pipe|aborted"):  # noqa: PT012 - any of the sends may meet the end
            connection.sendall(HEAD)
            while True:
                connection.sendall(b"X-More: " + b"x" * 8000 + b"\r\n")
        assert httpx.get(f"{url}/livez").status_code == 200


@pytest.mark.parametrize(("size", "status"), [(60_000, b"200"), (200_000, b"400")])
def test_headers_have_at_most_64_kib(hasty: Endpoint, size: int, status: bytes) -> None:
    with serving(hasty) as url, connected(url) as connection, suppress(OSError):
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-More: ")
        for end in (b"", b"\r\n\r\n"):
            connection.sendall(b"x" * (size // 2) + end)
            time.sleep(0.05)  # so that the server reads them one by one
        assert received(connection).startswith(b"HTTP/1.1 " + status)


def test_endless_bodies_get_413(hasty: Endpoint) -> None:
    with serving(hasty) as url, connected(url) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 5)
        assert received(connection).startswith(b"HTTP/1.1 413 ")


def test_a_disconnected_client_costs_the_engine_nothing(tmp_path: Path) -> None:
    with endpoint(tmp_path, deadline_ms=60_000) as parts, serving(parts) as url:
        with ThreadPoolExecutor(1) as pool, parts.engine.hold():
            first = pool.submit(httpx.post, f"{url}/v1/recommend", json=BODY, timeout=PATIENCE)
            assert parts.engine.entered.wait(PATIENCE)
            with connected(url) as connection:
                connection.sendall(HEAD + b'Content-Length: 31\r\n\r\n{"history": [], "user_id": "m"}')
                until(url, "/metrics", "recsys_queue_depth 1.0")
            until(url, "/metrics", 'code="499"')
        assert first.result().status_code == 200
        assert httpx.post(f"{url}/v1/recommend", json=BODY).status_code == 200
        assert all(request.user is None for call in parts.engine.calls for request in call.requests)


def test_many_requests_on_one_connection(tmp_path: Path) -> None:
    async def main(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=8)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE) as client:
            asked = [client.post("/v1/recommend", json=BODY) for _ in range(100)]
            return [response.status_code for response in await asyncio.gather(*asked)]

    with endpoint(tmp_path) as parts:
        with serving(parts) as url:
            assert set(asyncio.run(main(url))) == {200}
        assert parts.app.gate.in_flight == 0


def test_a_free_port_is_chosen() -> None:
    with listening(ServeConfig(port=0)) as listener:
        assert listener.getsockname()[1] > 0
