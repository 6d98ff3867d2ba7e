"""Bundles in an MLflow registry: published behind gates, resolved by alias or version, rolled back.

A published model is the code file `serving.release.mlflow_model` and the bundle as its one artifact, without a pickle.
Reads and writes a registry, always by an absolute URI, and the bundle cache. Only this module and `recsys.tracking`
import MLflow.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

# No usage statistics over the network, no progress bars inside ours; both are read when MLflow is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

with warnings.catch_warnings():  # MLflow warns about its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc

import pandas as pd  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

from recsys.errors import ArtifactError, RecsysError
from recsys.tracking import database
from serving.bundle.bundle import Bundle, open_bundle
from serving.bundle.bundle_cache import cached, default_cache
from serving.bundle.golden import require_golden
from serving.bundle.model_uri import parse_model_uri
from serving.engine.batch import recommend_rows
from serving.engine.engine import BundleEngine
from serving.engine.interface import Engine
from serving.release.gates import falls_behind, tags_of

__all__ = ["BundleModel", "Published", "publish", "resolve", "rollback", "set_model"]

EXPERIMENT, MODEL = "recsys", "model"
CODE = Path(__file__).with_name("mlflow_model.py")
INPUTS = {"history": AnyType(), "k": DataType.long, "user_id": DataType.string}
OUTPUTS = {
    "row": DataType.long,
    "rank": DataType.long,
    "item_id": DataType.string,
    "title": DataType.string,
    "score": DataType.double,
}

logger = logging.getLogger(__name__)


class Published(NamedTuple):
    """The version of a registered model that an alias names, and the version that it named before."""

    name: str
    alias: str
    version: str
    bundle: str
    previous: str | None


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is not typed
    """A bundle as an MLflow model; `load_context` sets `engine`."""

    engine: Engine

    def load_context(self, context: Any) -> None:
        """Load the bundle, and verify every file."""
        self.engine = load_engine(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Recommendations for a table of histories; see `recommend_rows`."""
        return recommend_rows(self.engine, model_input.to_dict("records")).to_pandas()


def load_engine(folder: Path) -> Engine:
    """The engine of a bundle."""
    return BundleEngine.load(folder)


def publish(folder: Path, *, name: str, alias: str, uri: str, force: bool = False) -> Published:
    """Register a bundle as a new version and move the alias to it, if it passes the gates.

    The gates: its NDCG@10 does not fall behind (`serving.release.gates`), and the published model, loaded back, answers
    the golden requests as the bundle did when it was made. The bundle that the alias names is not published again.

    Args:
        uri: of the registry, absolute.
        force: failed gates are warnings.

    Raises:
        ArtifactError: the bundle is damaged, a gate fails, or the registry refuses.
    """
    bundle = open_bundle(folder)
    tags = tags_of(bundle)
    with _refusals(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        champion = _aliased(client, name, alias)
        if champion is not None and champion.tags.get("bundle") == bundle.id:
            logger.info("%s@%s is bundle %s already", name, alias, bundle.id)
            return _published(champion, alias)
        before: Mapping[str, str] = champion.tags if champion is not None else {}
        if champion is not None and tags.get("dataset") != before.get("dataset"):
            logger.warning("version %s was evaluated on other data; metrics are compared anyway", champion.version)
        _gate(falls_behind(tags, before), force=force)
        made = _register(client, bundle, name, tags)
        _gate(_wrong_answers(client, made), force=force)
        if champion is not None:
            client.set_model_version_tag(name, made.version, _previous(alias), champion.version)
        client.set_registered_model_alias(name, alias, made.version)
        return _published(client.get_model_version(name, made.version), alias)


def rollback(*, name: str, alias: str, uri: str) -> Published:
    """Move an alias back to the version that it named before.

    Raises:
        ArtifactError: there is no such alias, or no previous version.
    """
    with _refusals(uri):
        client = _existing(uri)
        present = _aliased(client, name, alias)
        if present is None:
            raise ArtifactError(f"{uri} has no {name}@{alias}; publish a bundle first")
        before = present.tags.get(_previous(alias))
        if before is None:
            raise ArtifactError(f"{name}@{alias} is version {present.version}, and there is no previous version")
        client.set_registered_model_alias(name, alias, before)
        return _published(client.get_model_version(name, before), alias)


def resolve(source: str, *, uri: str, cache: Path | None = None) -> Path:
    """The folder of a registered bundle, `models:/NAME@ALIAS` or `models:/NAME/VERSION`, downloaded once and verified.

    The alias is resolved once, so that the folder is of one version.

    Args:
        cache: folder of downloaded bundles; the user's cache folder by default.

    Raises:
        ConfigError: `source` is no model URI.
        ArtifactError: there is no such model, or the download is not the published bundle.
    """
    uri_parts = parse_model_uri(source)
    with _refusals(uri):
        client = _existing(uri)
        if uri_parts.alias is not None:
            found = client.get_model_version_by_alias(uri_parts.name, uri_parts.alias)
        else:
            found = client.get_model_version(uri_parts.name, uri_parts.version)

        def fetch(work: Path) -> Path:
            return _bundle_in(Path(client.download_artifacts(found.run_id, MODEL, str(work))))

        return cached(cache or default_cache(), found.tags.get("bundle", ""), fetch)


def _register(client: Any, bundle: Bundle, name: str, tags: dict[str, str]) -> Any:
    """A new version of the registered model, without an alias yet."""
    location = database(client.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        artifacts = (location.parent / "mlflow").as_uri() if location is not None else None
        experiment_id = client.create_experiment(EXPERIMENT, artifacts)
    else:
        experiment_id = experiment.experiment_id
    run = client.create_run(experiment_id, run_name=f"publish {name} {bundle.id}", tags=tags)
    with tempfile.TemporaryDirectory() as work:
        _save_model(Path(work) / MODEL, bundle)
        client.log_artifacts(run.info.run_id, work)
    client.set_terminated(run.info.run_id)
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/{MODEL}"
    return client.create_model_version(name, source, run_id=run.info.run_id, tags=tags)


def _save_model(path: Path, bundle: Bundle) -> None:
    mlflow.pyfunc.save_model(
        path=path,
        python_model=str(CODE),
        artifacts={"bundle": str(bundle.folder)},
        signature=ModelSignature(
            inputs=Schema([ColSpec(kind, column, required=False) for column, kind in INPUTS.items()]),
            outputs=Schema([ColSpec(kind, column) for column, kind in OUTPUTS.items()]),
        ),
        input_example=pd.DataFrame({"history": ["[]"], "k": [10], "user_id": ["u1"]}),
        pip_requirements=[f"recsys=={installed('recsys')}"],
        metadata={"bundle": bundle.id},
    )


def _wrong_answers(client: Any, made: Any) -> str:
    """How the published model, loaded back by MLflow, differs from its golden answers; empty where it does not."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(client.download_artifacts(made.run_id, MODEL, work))
        try:
            require_golden(mlflow.pyfunc.load_model(str(path)).unwrap_python_model().engine, _bundle_in(path))
        except RecsysError as error:
            return str(error)
    return ""


def _gate(reason: str, *, force: bool) -> None:
    if reason and not force:
        raise ArtifactError(f"not published: {reason} (--skip-gates publishes it anyway)")
    if reason:
        logger.warning("published despite a failed gate: %s", reason)


def _bundle_in(model: Path) -> Path:
    """The one artifact of a downloaded model."""
    found = sorted((model / "artifacts").glob("*"))
    if len(found) != 1:
        raise ArtifactError(f"the registered model has {len(found)} artifacts, a bundle is one; publish it again")
    return found[0]


def _existing(uri: str) -> Any:
    """A client of a registry; a local one must exist, MLflow would create an empty one."""
    path = database(uri)
    if path is not None and not path.exists():
        raise ArtifactError(f"there is no registry at {path}; name it with --registry URI or MLFLOW_TRACKING_URI")
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _aliased(client: Any, name: str, alias: str) -> Any:
    """The version that an alias names; None where there is none."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _published(found: Any, alias: str) -> Published:
    tags = found.tags
    return Published(found.name, alias, str(found.version), tags.get("bundle", ""), tags.get(_previous(alias)))


def _previous(alias: str) -> str:
    return f"previous.{alias}"


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """Convert MLflow's errors, and silence its logs below errors."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except MlflowException as error:
        raise ArtifactError(f"the registry {uri} refuses: {' '.join(str(error).split())[:300]}") from error
