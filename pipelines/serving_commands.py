"""The commands of `pipelines.cli` about serving: bundle a run, publish and roll back bundles, serve, manage API keys.

Reads run directories, bundles, registries and key files; writes bundles, registries and key files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from pipelines import FOLDERS
from pipelines.commands import logging_to
from pipelines.config import CONFIG, stored_config
from pipelines.seeds import require_own_run
from pipelines.settings import override, validated
from recsys.artifacts import RunDirectory
from recsys.cluster import is_lasting
from recsys.config import Config
from recsys.data.histories import item_lists
from recsys.errors import ArtifactError, ConfigError
from recsys.tables import Interactions
from recsys.tracking import tracking_uri
from serving.bundle.bundle import is_bundle
from serving.bundle.model_uri import is_model_uri
from serving.config import ServeConfig
from serving.engine.interface import Engine
from serving.http.history_store import HistoryStore, StoreError, open_store
from serving.http.keys import Keys, create_key, revoke_key
from serving.http.server import serve as serve_http
from serving.ray_app import RayConfig, serve_on_ray
from serving.runtime.item_updates import ItemUpdates
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig

RUNS = Path("runs")  # home of the default registry
COPIED = 1000  # users whose histories are copied at once; a running endpoint waits meanwhile


class ServeSettings(Config):
    """Configuration of `recsys serve`; its fields are the sections of `--set section.key=value`."""

    serve: ServeConfig = ServeConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    ray: RayConfig = RayConfig()


def bundle(run: Path, out: Path) -> None:
    """`recsys bundle`."""
    from pipelines.bundling import bundle_run

    directory = RunDirectory(run, FOLDERS)
    require_own_run(directory)
    with logging_to(Console(stderr=True)):
        made = bundle_run(directory, stored_config(directory), out)
    _print(f"bundle {made.id} in {made.folder}", f"serve it with: recsys serve {out}")


def publish(source: Path, *, name: str, alias: str, registry: str | None, skip_gates: bool) -> None:
    """`recsys publish`."""
    from serving.release.registry import publish as publish_bundle

    uri = tracking_uri(registry, home=RUNS)
    with logging_to(Console(stderr=True)), Sources(registry) as sources:
        made = publish_bundle(sources.folder(str(source)), name=name, alias=alias, uri=uri, force=skip_gates)
    before = f" (before: version {made.previous})" if made.previous else ""
    _print(
        f"{name}@{alias} is version {made.version}, bundle {made.bundle}{before}",
        f"serve it with: recsys serve models:/{name}@{alias} --registry {uri}",
    )


def rollback(*, name: str, alias: str, registry: str | None) -> None:
    """`recsys rollback`."""
    from serving.release.registry import rollback as roll_back

    made = roll_back(name=name, alias=alias, uri=tracking_uri(registry, home=RUNS))
    _print(f"{name}@{alias} is version {made.version} again, bundle {made.bundle}")


def serve(
    source: str, *, settings: Sequence[str], options: Mapping[str, Any], registry: str | None, check: bool, ray: bool
) -> None:
    """`recsys serve`.

    Args:
        settings: `section.key=value` of `ServeSettings`.
        options: values of `ServeConfig` that have options of their own.
        registry: MLflow tracking URI that models are looked up in.
        check: only replay the golden requests.
        ray: serve on Ray Serve.
    """
    config = serve_settings(options, settings)
    with logging_to(Console(stderr=True)), Sources(registry, default=source) as sources:
        if check:
            bundle_id = sources.engine(None).info.bundle
            _print(f"bundle {bundle_id} passes its golden requests")
        elif ray:
            _serve_on_ray(sources, source, config)
        else:
            _serve_here(sources, config)


def serve_settings(options: Mapping[str, Any], settings: Sequence[str]) -> ServeSettings:
    """The configuration of values of `ServeConfig` and `section.key=value` settings, which take precedence.

    Raises:
        ConfigError: a setting has another form, or is not allowed.
    """
    values: dict[str, Any] = {"serve": dict(options)}
    for setting in settings:
        override(values, setting)
    return validated(ServeSettings, values)


def _serve_here(sources: Sources, config: ServeSettings) -> None:
    engine, metrics = sources.engine(None), Metrics()
    bundle_id = engine.info.bundle
    updates = ItemUpdates(config.serve.item_updates)
    runtime = Runtime(engine, config.runtime, metrics=metrics, load=sources.engine, updates=updates)
    serve_http(
        runtime, config.serve, metrics=metrics, announce=lambda url: _print(f"bundle {bundle_id} answers at {url}")
    )


def _serve_on_ray(sources: Sources, source: str, config: ServeSettings) -> None:
    if config.serve.item_updates is not None:
        raise ConfigError("serve.item_updates: not available with --ray, where a request reaches one replica only")
    if is_lasting() and not is_model_uri(source) and not is_bundle(Path(source)):
        raise ConfigError(f"{source} is not a bundle, and the cluster outlives this command; bundle the run first")
    folder = sources.folder(source)
    serve_on_ray(
        folder, config.serve, config.runtime, config.ray, announce=lambda url: _print(f"{folder} answers at {url}")
    )


def histories(run: Path, store: str) -> None:
    """`recsys histories`."""
    directory = RunDirectory(run, FOLDERS)
    stored_config(directory)  # one line where there is no run
    users = item_lists(Interactions.load(directory.verified("prepare") / "interactions.parquet"))
    try:
        copied = asyncio.run(_copied(users, open_store(store, ServeConfig().history_limit)))
    except StoreError as error:
        raise ConfigError(f"{store}: {error}") from error
    _print(f"{copied} of {len(users)} users copied into {store}; the others have a history there")


async def _copied(users: pl.DataFrame, store: HistoryStore) -> int:
    try:
        return sum([await store.fill(part.rows()) for part in users.iter_slices(COPIED)])
    finally:
        await store.close()


def keys_create(path: Path, *, name: str, scope: str) -> None:
    """`recsys keys create`."""
    token = create_key(path, name, scope)
    Console(stderr=True).print(f"key '{name}' ({scope}), shown only now and stored as a hash:")
    _print(token)


def keys_list(path: Path) -> None:
    """`recsys keys list`."""
    table = Table("name", "scope", "created", box=None, header_style="bold")
    for key in Keys.load(path):
        table.add_row(key.name, key.scope, key.created)
    Console().print(table)


def keys_revoke(path: Path, *, name: str) -> None:
    """`recsys keys revoke`."""
    revoke_key(path, name)
    _print(f"key '{name}' is revoked; a running endpoint refuses it within a second")


class Sources(ExitStack):
    """Resolves a source to a bundle folder: a bundle, a finished run, or a registered model.

    A context manager: runs are bundled into temporary folders, which it deletes on exit.
    """

    def __init__(self, registry: str | None, *, default: str | None = None) -> None:
        """With the registry that models are looked up in, and the source that None stands for."""
        super().__init__()
        self._registry, self._default = registry, default

    def engine(self, source: str | None) -> Engine:
        """The engine of a source's bundle, after it passed its golden requests.

        Raises:
            RecsysError: there is no such bundle, it is damaged, or it fails its golden requests.
        """
        from serving.bundle.golden import load_engine

        chosen = source if source is not None else self._default
        assert chosen is not None
        return load_engine(self.folder(chosen))

    def folder(self, source: str) -> Path:
        """The folder of the source's bundle; a run is bundled first.

        Raises:
            RecsysError: there is no such source.
        """
        if is_model_uri(source):
            from serving.release.registry import resolve

            return resolve(source, uri=tracking_uri(self._registry, home=RUNS))
        path = Path(source).expanduser()
        if is_bundle(path):
            return path
        if not (path / CONFIG).is_file():
            raise ArtifactError(f"{source} is neither a bundle nor a run; give one of them, or models:/NAME@ALIAS")
        from pipelines.bundling import bundle_run

        directory = RunDirectory(path, FOLDERS)
        require_own_run(directory)
        work = self.enter_context(TemporaryDirectory(prefix="recsys-bundle-", ignore_cleanup_errors=True))
        return bundle_run(directory, stored_config(directory), Path(work) / "bundle").folder


def _print(*lines: str) -> None:
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
