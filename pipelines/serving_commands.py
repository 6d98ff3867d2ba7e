"""What the commands about serving do: bundle a run, publish and roll back bundles, serve one, keep keys.

Reads run directories, bundles, registries and files of keys; writes bundles, registries and files of keys.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from pipelines import FOLDERS
from pipelines.commands import CONFIG, logging_to, stored_config
from recsys.artifacts import RunDirectory
from recsys.cluster import is_lasting
from recsys.config import Config
from recsys.errors import ArtifactError, ConfigError
from recsys.tracking import tracking_uri
from serving.bundle.bundle import is_bundle
from serving.bundle.model_uri import is_model_uri
from serving.config import ServeConfig
from serving.engine.interface import Engine
from serving.http.keys import Keys, create_key, revoke_key
from serving.http.server import serve as serve_http
from serving.ray_app import RayConfig, serve_on_ray
from serving.runtime.item_updates import ItemUpdates
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig

C = TypeVar("C", bound=Config)
RUNS = Path("runs")  # where a registry is looked for that nothing else names


def bundle(run: Path, out: Path) -> None:
    """`recsys bundle`."""
    from pipelines.bundling import bundle_run

    directory = RunDirectory(run, FOLDERS)
    with logging_to(Console(stderr=True)):
        made = bundle_run(directory, stored_config(directory), out)
    _say(f"bundle {made.id} in {made.folder}", f"serve it with: recsys serve {out}")


def publish(source: Path, *, name: str, alias: str, registry: str | None, force: bool) -> None:
    """`recsys publish`."""
    from serving.release.registry import publish as publish_bundle

    uri = tracking_uri(registry, home=RUNS)
    with logging_to(Console(stderr=True)), Sources(registry) as sources:
        made = publish_bundle(sources.folder(str(source)), name=name, alias=alias, uri=uri, force=force)
    before = f" (before: version {made.previous})" if made.previous else ""
    _say(
        f"{name}@{alias} is version {made.version}, bundle {made.bundle}{before}",
        f"serve it with: recsys serve models:/{name}@{alias} --registry {uri}",
    )


def rollback(*, name: str, alias: str, registry: str | None) -> None:
    """`recsys rollback`."""
    from serving.release.registry import rollback as roll_back

    made = roll_back(name=name, alias=alias, uri=tracking_uri(registry, home=RUNS))
    _say(f"{name}@{alias} is version {made.version} again, bundle {made.bundle}")


class ServeChoices(NamedTuple):
    """How `recsys serve` serves: the registry that models are looked up in, only a check, and on Ray or not."""

    registry: str | None = None
    check: bool = False
    ray: bool = False


def serve(source: str, *, options: Mapping[str, Any], settings: Sequence[str], choices: ServeChoices) -> None:
    """`recsys serve`.

    Args:
        options: of `ServeConfig`, those that were given.
        settings: `key=value` of `ServeConfig`; `runtime.key=value` and `ray.key=value` of the other two.
    """
    configs = serve_configs(options, settings)
    with logging_to(Console(stderr=True)), Sources(choices.registry, first=source) as sources:
        if choices.check:
            checked = sources.engine(None).info.bundle
            _say(f"bundle {checked} answers its golden requests as it did when it was made")
        elif choices.ray:
            _serve_on_ray(sources, source, configs)
        else:
            _serve_here(sources, configs)


def _serve_here(sources: Sources, configs: ServeConfigs) -> None:
    engine, metrics = sources.engine(None), Metrics()
    bundle_id = engine.info.bundle
    updates = ItemUpdates(configs.serving.item_updates)
    live = Runtime(engine, configs.runtime, metrics=metrics, load=sources.engine, updates=updates)
    serve_http(
        live, configs.serving, metrics=metrics, announce=lambda url: _say(f"bundle {bundle_id} answers at {url}")
    )


def _serve_on_ray(sources: Sources, source: str, configs: ServeConfigs) -> None:
    if configs.serving.item_updates is not None:
        raise ConfigError("item_updates: items cannot be changed live on Ray, where a request reaches one replica only")
    if is_lasting() and not is_model_uri(source) and not is_bundle(Path(source)):
        raise ConfigError(f"{source} is no bundle, and a cluster outlives this command; bundle the run first")
    folder = sources.folder(source)
    serve_on_ray(folder, *configs, announce=lambda url: _say(f"{folder} answers at {url}"))


def keys_create(path: Path, *, name: str, scope: str) -> None:
    """`recsys keys create`."""
    token = create_key(path, name, scope)
    Console(stderr=True).print(f"key '{name}' ({scope}) is kept as a hash; this is the only time it is shown:")
    _say(token)


def keys_list(path: Path) -> None:
    """`recsys keys list`."""
    table = Table("name", "scope", "created", box=None, header_style="bold")
    for key in Keys.load(path):
        table.add_row(key.name, key.scope, key.created)
    Console().print(table)


def keys_revoke(path: Path, *, name: str) -> None:
    """`recsys keys revoke`."""
    revoke_key(path, name)
    _say(f"key '{name}' is revoked; a running endpoint refuses it within a second")


class Sources:
    """Finds the bundles that sources name: a bundle's folder, a finished run, or a registered model.

    A context: bundles of runs are made in temporary folders, which are gone when it ends.
    """

    def __init__(self, registry: str | None, *, first: str | None = None) -> None:
        """With the registry that models are looked up in, and the source that None stands for."""
        self._registry, self._first = registry, first
        self._temporary: list[Path] = []

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *error: object) -> None:
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)

    def engine(self, source: str | None) -> Engine:
        """The engine of a source's bundle, which answers its golden requests as it should.

        Raises:
            RecsysError: there is no such bundle, or it is damaged or answers otherwise.
        """
        from serving.bundle.golden import load_engine

        given = source if source is not None else self._first
        assert given is not None
        return load_engine(self.folder(given))

    def folder(self, source: str) -> Path:
        """The bundle's folder; what a run has becomes a bundle first.

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
        work = Path(tempfile.mkdtemp(prefix="recsys-bundle-"))
        self._temporary.append(work)
        return bundle_run(directory, stored_config(directory), work / "bundle").folder


class ServeConfigs(NamedTuple):
    """Everything that `recsys serve` can be told."""

    serving: ServeConfig
    runtime: RuntimeConfig
    ray: RayConfig


def serve_configs(options: Mapping[str, Any], settings: Sequence[str]) -> ServeConfigs:
    """The configurations that options of `ServeConfig` and settings `key=value` or `section.key=value` make.

    Raises:
        ConfigError: a setting is of another form, or not allowed.
    """
    values: dict[str, dict[str, Any]] = {"": dict(options), "runtime": {}, "ray": {}}
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, _, key = path.rpartition(".")
        if not equals or not key or section not in values:
            raise ConfigError(f"--set {setting}: write it as key=value, runtime.key=value or ray.key=value")
        try:
            values[section][key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value is no YAML; put quotes around it") from error
    return ServeConfigs(
        _validated(ServeConfig, values[""]),
        _validated(RuntimeConfig, values["runtime"]),
        _validated(RayConfig, values["ray"]),
    )


def _validated(model: type[C], values: Mapping[str, Any]) -> C:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = f"; known are {', '.join(model.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{key}: got {first['input']!r}; {first['msg']}{known}") from error


def _say(*lines: str) -> None:
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
