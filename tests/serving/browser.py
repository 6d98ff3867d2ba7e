"""A real browser on the real application: what the tests of the page share. Nothing here is needed to serve."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.config import ServeConfig
from serving.http.app import create_app
from serving.http.history_store import open_store
from serving.http.keys import Keys
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig
from tests.serving.fakes import FakeEngine

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")

PATIENCE = 30.0  # seconds for the server to start or stop
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REFUSED = "Failed to load resource: the server responded with a status of "


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium for a module's tests."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(engine: FakeEngine, folder: Path, *, keys: Keys | None = None) -> Iterator[str]:
    """The application around an engine, in a thread; yields its address."""
    config = ServeConfig(store=f"sqlite:///{folder / 'histories.sqlite'}", deadline_ms=20_000)
    metrics = Metrics()
    runtime = Runtime(engine, RuntimeConfig(warm_requests=0), metrics=metrics, load=lambda source: engine)
    store = open_store(config.store, config.history_limit)
    app = create_app(runtime, config, metrics=metrics, store=store, keys=keys)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening, closing(runtime):
        # The socket accepts from here on: who comes early waits.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@dataclass(frozen=True)
class Visit:
    """One person's tab on the page, and what it did that nobody saw."""

    page: Any
    address: str
    complaints: list[str]  # of the console, and errors of the scripts
    asked: list[str]  # addresses of all requests
    aborted: list[str]  # of those that the page gave up

    def open(self, fragment: str = "") -> Any:
        """The page with what an address says."""
        self.page.goto(self.address + fragment)
        return self.page


@contextmanager
def visiting(browser: Any, address: str, **context: Any) -> Iterator[Visit]:
    """A tab of its own. After it: nothing came from elsewhere, and the console had nothing but refused requests."""
    tab = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    page = tab.new_page()
    visit = Visit(page, address, [], [], [])
    page.on("console", lambda message: visit.complaints.append(message.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", lambda request: visit.asked.append(request.url))
    page.on("requestfailed", lambda request: visit.aborted.append(request.url))
    try:
        yield visit
    finally:
        tab.close()
    assert [text for text in visit.complaints if not text.startswith(REFUSED)] == []
    assert [url for url in visit.asked if not url.startswith(address)] == []
