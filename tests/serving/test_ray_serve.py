"""The endpoint on a real Ray Serve: bounded queues, and bundles that change under load without an error."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from recsys import cluster as cluster_module
from recsys.errors import ArtifactError, ConfigError, DependencyError
from serving.config import ServeConfig
from serving.engine.interface import Engine
from serving.ray_app import RayConfig, Replica, Spec, connected, deploy, serve_on_ray
from serving.runtime.runtime import RuntimeConfig
from tests.serving.fakes import FakeEngine

RAY = RayConfig(replicas=2, max_ongoing=4, max_queued=8)
CLIENTS = 4
slow = pytest.mark.slow


def fake(folder: Path) -> Engine:
    """An engine whose items are named for its bundle; a folder may hold it back, or hold a bad one."""
    if (folder / "bad").exists():
        raise ArtifactError("the bundle is damaged")

    def cost(tier: str, size: int) -> float:
        (folder / "entered").touch()
        while (folder / "held").exists():
            threading.Event().wait(0.01)
        return 0.0

    return FakeEngine(folder.name, prefix=f"{folder.name}-", cost=cost)


def spec(folder: Path, port: int, **changes: object) -> Spec:
    values: dict[str, object] = {
        "folder": folder,
        "bundle": folder.name,
        "serving": ServeConfig(port=port, store=f"sqlite:///{folder.parent}/histories.sqlite", deadline_ms=60_000),
        "runtime": RuntimeConfig(warm_requests=0),
        "load": f"{__name__}:fake",
    }
    return Spec.model_validate(values | changes)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a Ray Serve that listens for this module."""
    pytest.importorskip("ray.serve", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    with connected(RAY):
        yield number


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[[str], Path]:
    """Makes the folder of a bundle."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def ask(port: int, history: list[str]) -> httpx.Response:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        return client.post("/v1/recommend", json={"history": history, "k": 3})


@slow
def test_a_bundle_changes_under_load_without_an_error(port: int, bundle: Callable[[str], Path]) -> None:
    old, new = bundle("old"), bundle("new")
    deploy(spec(old, port), RAY)
    stop, seen = threading.Event(), Counter[str]()
    met = {name: threading.Event() for name in ("old", "new")}

    def client(number: int) -> list[httpx.Response]:
        answers = []
        while not stop.is_set():
            answers.append(ask(port, [f"old-{number}"]))
            if answers[-1].status_code == 200:
                met[answers[-1].json()["bundle"]].set()
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        assert met["old"].wait(60)
        try:
            deploy(spec(new, port), RAY)
            assert met["new"].wait(60)
        finally:
            stop.set()
        answers = [answer for each in clients for answer in each.result()]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        body = answer.json()
        assert {item["item_id"].split("-")[0] for item in body["items"]} == {body["bundle"]}
        seen[body["bundle"]] += 1
    assert set(seen) == {"old", "new"}
    assert {ask(port, []).json()["bundle"] for _ in range(10)} == {"new"}, "nobody is left of the old"


@slow
def test_a_bad_bundle_changes_nothing(port: int, bundle: Callable[[str], Path]) -> None:
    good, bad = bundle("good"), bundle("broken")
    deploy(spec(good, port), RAY)
    (bad / "bad").touch()
    with pytest.raises(ArtifactError, match="bundle broken cannot be served on Ray"):
        deploy(spec(bad, port), RAY)
    assert {ask(port, []).json()["bundle"] for _ in range(10)} == {"good"}


@slow
def test_more_than_the_queues_hold_is_refused_at_once(port: int, bundle: Callable[[str], Path]) -> None:
    folder = bundle("held")
    config = RAY.model_copy(update={"replicas": 1})
    deploy(spec(folder, port), config)
    (folder / "held").touch()
    room = config.max_ongoing + config.max_queued
    with ThreadPoolExecutor(2 * room) as pool:
        answers = [pool.submit(ask, port, []) for _ in range(2 * room)]
        refused = threading.Event()
        for answer in answers:
            answer.add_done_callback(lambda done: refused.set() if done.result().status_code == 503 else None)
        assert refused.wait(60), "some are refused while the others wait"
        (folder / "held").unlink()
        codes = Counter(answer.result().status_code for answer in answers)
    assert set(codes) == {200, 503}
    assert codes[200] >= config.max_ongoing
    assert ask(port, []).status_code == 200


@slow
def test_a_replica_is_ready_and_not_changed_alone(port: int, bundle: Callable[[str], Path]) -> None:
    deploy(spec(bundle("plain"), port), RAY)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/recommend", json={"history": [], "k": 0}).status_code == 422
        refused = client.post("/admin/reload", json={})
    assert refused.status_code == 403
    assert "recsys serve SOURCE --ray" in refused.json()["error"]["message"]


def test_a_replica_serves_only_what_was_deployed(bundle: Callable[[str], Path]) -> None:
    folder = bundle("one")
    values = spec(folder, 8000, bundle="another").model_dump(mode="json")
    with pytest.raises(ArtifactError, match="holds bundle one, another was deployed"):
        Replica(values)


def test_a_replica_is_healthy_until_its_runtime_ends(bundle: Callable[[str], Path]) -> None:
    replica = Replica(json.loads(spec(bundle("one"), 8000).model_dump_json()))
    replica.check_health()
    replica._runtime.close()
    with pytest.raises(RuntimeError, match="no longer accepts requests"):
        replica.check_health()


def test_what_cannot_be_deployed_is_reported_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="port=0"):
        serve_on_ray(tmp_path, ServeConfig(port=0), RuntimeConfig(), RAY)
    with pytest.raises(ConfigError, match="no keys"):
        serve_on_ray(tmp_path, ServeConfig(host="0.0.0.0"), RuntimeConfig(), RAY)
    with pytest.raises(ArtifactError):
        serve_on_ray(tmp_path, ServeConfig(), RuntimeConfig(), RAY)
    monkeypatch.setattr(cluster_module, "import_module", _absent)
    with pytest.raises(DependencyError, match=r"recsys\[ray\]"), connected(RAY):
        pass


def _absent(name: str) -> None:
    raise ImportError(name)
