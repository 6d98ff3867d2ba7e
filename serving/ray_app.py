"""The endpoint on Ray Serve: replicas of the same application behind Ray's proxy, with bounded queues.

Each replica is a process that loads a bundle, checks and warms it, and only then gets requests. Deploying another
bundle replaces one replica after the other, each new one before an old one drains; a bundle that cannot be served
leaves the old replicas as they are. Reads a bundle; its folder must be shared by all machines of a cluster.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field

from recsys.cluster import import_ray, is_lasting, ray_cluster
from recsys.config import Config
from recsys.errors import ArtifactError, ConfigError
from serving.bundle.manifest import read_manifest
from serving.config import ServeConfig
from serving.engine.interface import Engine
from serving.http.admission import AsgiScope, Receive, Send
from serving.http.app import create_app
from serving.http.auth import ADMIN
from serving.http.errors import error_events
from serving.http.history_store import open_store
from serving.http.keys import Keys
from serving.http.server import check_exposure
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig

APPLICATION = "recsys"
ATTEMPTS = 2  # to start a replica with a new bundle
MAX_SURGE_PERCENT = 1  # of the replicas, rounded up: one extra replica during a rollout
SQLITE = "sqlite:///"


class RayConfig(Config):
    """Number of replicas, and limits of their requests."""

    replicas: int = Field(default=1, ge=1, le=100)
    threads: int = Field(default=1, ge=1, description="CPUs and compute threads of a replica")
    max_ongoing: int = Field(default=64, ge=1, description="concurrent requests of a replica")
    max_queued: int = Field(default=128, ge=1, description="pending requests per replica; more are refused with 503")


class Spec(Config):
    """Configuration of a replica; `load` is `module:function`, (bundle folder) -> engine."""

    folder: Path
    bundle: str
    serving: ServeConfig
    runtime: RuntimeConfig = RuntimeConfig()
    load: str = "serving.bundle.golden:load_engine"

    @classmethod
    def of(cls, folder: Path, serving: ServeConfig, runtime: RuntimeConfig) -> Spec:
        """For a bundle's folder; paths become absolute, since replicas run in other folders.

        Raises:
            ArtifactError: the folder is no bundle.
        """
        changes: dict[str, Any] = {}
        if serving.store.startswith(SQLITE):
            changes["store"] = f"{SQLITE}{Path(serving.store.removeprefix(SQLITE)).absolute()}"
        if serving.keys is not None:
            changes["keys"] = serving.keys.absolute()
        bundle = read_manifest(folder.resolve()).bundle
        return cls(folder=folder.resolve(), bundle=bundle, serving=serving.model_copy(update=changes), runtime=runtime)


class Replica:
    """One engine with its runtime and HTTP application; Ray Serve creates it from a `Spec` as plain values."""

    def __init__(self, values: dict[str, Any]) -> None:
        """Load, check and warm the bundle.

        Raises:
            RecsysError: it cannot be served, or is not the deployed one.
        """
        self._spec = spec = Spec.model_validate(values)
        module, _, function = spec.load.partition(":")
        load: Callable[[Path], Engine] = getattr(import_module(module), function)
        engine = load(spec.folder)
        if engine.info.bundle != spec.bundle:
            raise ArtifactError(
                f"{spec.folder} holds bundle {engine.info.bundle}, {spec.bundle} was deployed; deploy it again"
            )
        self._metrics = Metrics()
        self._runtime = Runtime(engine, spec.runtime, metrics=self._metrics, load=lambda source: load(spec.folder))

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        """Called by Ray Serve for the application."""
        config = self._spec.serving
        keys = None if config.keys is None else Keys.load(config.keys)
        store = open_store(config.store, config.history_limit)
        app = create_app(self._runtime, config, metrics=self._metrics, store=store, keys=keys)
        refusal = error_events(
            403, "forbidden", "single replicas cannot be changed; deploy a bundle with `recsys serve SOURCE --ray`"
        )

        async def replica(scope: AsgiScope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"].startswith(ADMIN[0]):
                for event in refusal:
                    await send(event)
                return
            await app(scope, receive, send)

        return replica

    def check_health(self) -> None:
        """Called by Ray Serve periodically; a replica that fails is replaced."""
        if not self._runtime.ready:
            raise RuntimeError("the runtime no longer accepts requests")

    def __del__(self) -> None:
        if hasattr(self, "_runtime"):
            self._runtime.close()


def deploy(spec: Spec, config: RayConfig) -> None:
    """Roll a bundle out on the connected Ray cluster; returns when it answers.

    Raises:
        ArtifactError: no replica can be started with it; the previous bundle stays.
    """
    serve = import_ray("ray.serve")
    listening = {"host": spec.serving.host, "port": spec.serving.port}
    serve.start(http_options=listening, logging_config={"log_level": "WARNING"})
    endpoint = serve.deployment(
        serve.ingress()(Replica),
        name="endpoint",
        num_replicas=config.replicas,
        max_ongoing_requests=config.max_ongoing,
        max_queued_requests=config.max_queued,
        graceful_shutdown_timeout_s=spec.serving.drain_seconds,
        max_constructor_retry_count=ATTEMPTS,
        max_surge_percent=MAX_SURGE_PERCENT,
        ray_actor_options={
            "num_cpus": config.threads,
            "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},  # spinning threads would starve the event loop
        },
    )
    try:
        serve.run(endpoint.bind(spec.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"bundle {spec.bundle} cannot be served on Ray; the previous bundle stays ({reason})"
        ) from error


def serve_on_ray(
    folder: Path,
    serving: ServeConfig,
    runtime: RuntimeConfig,
    config: RayConfig,
    *,
    announce: Callable[[str], None] | None = None,
) -> None:
    """`recsys serve --ray`: on the cluster that RAY_ADDRESS names, or on one started here.

    With RAY_ADDRESS it returns once the bundle answers, and the cluster keeps serving; otherwise it runs until SIGTERM
    or SIGINT. Running it again with RAY_ADDRESS (`auto` finds a cluster of this machine) replaces the bundle.

    Raises:
        ArtifactError: the bundle cannot be served.
        ConfigError: other machines could send requests without a key, or the port is 0.
        DependencyError: Ray is not installed.
    """
    check_exposure(serving, None if serving.keys is None else Keys.load(serving.keys))
    if serving.port == 0:
        raise ConfigError("port=0 picks a free port, which Ray's proxy cannot; set a port")
    spec = Spec.of(folder, serving, runtime)
    with connected(config):
        deploy(spec, config)
        if announce is not None:
            announce(f"http://{serving.host}:{serving.port}")
        if not is_lasting():
            _wait_for_signal()


@contextmanager
def connected(config: RayConfig) -> Iterator[Any]:
    """A connection to Ray; without RAY_ADDRESS a cluster is started here and ends with the block.

    DependencyError where Ray is not installed.
    """
    serve = import_ray("ray.serve")
    with ray_cluster(config.threads * (config.replicas + 1)) as ray:  # one extra replica during a rollout
        try:
            yield ray
        finally:
            if not is_lasting():
                serve.shutdown()


def _wait_for_signal() -> None:
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
