"""A local http server for raw files, and a writer of small tables."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

RAW = Path(__file__).parent / "raw"


def raw_bytes(name: str) -> bytes:
    """A fixture by name; with .gz, the fixture without it, compressed."""
    if name.endswith(".gz"):
        return gzip.compress((RAW / name.removesuffix(".gz")).read_bytes())
    return (RAW / name).read_bytes()


@dataclass
class Server:
    """Serves `files`; fails `failures` times first, cuts its first `cuts` answers in half; records ranges."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    failures: int = 0
    cuts: int = 0
    ranges: list[str | None] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        requested = request.headers["Range"]
        self.ranges.append(requested)
        content = self.files.get(request.path.lstrip("/"))
        if self.failures:
            self.failures -= 1
            request.send_error(503)
        elif content is None:
            request.send_error(404)
        else:
            start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
            request.send_response(206 if requested else 200)
            request.send_header("Content-Length", str(len(content) - start))
            request.end_headers()
            body = content[start:]
            if self.cuts:
                self.cuts -= 1
                body = body[: len(body) // 2]
            request.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return None

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write files by name - text or bytes - into a folder and return it."""

    def write(**files: str | bytes) -> Path:
        for name, content in files.items():
            stem, _, suffix = name.rpartition("_")
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / f"{stem}.{suffix}").write_bytes(data)
        return tmp_path

    return write
