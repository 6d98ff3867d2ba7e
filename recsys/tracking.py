"""Metrics and progress of long computations.

`Tracker` is the protocol that trainers take; `NullTracker` does nothing; `MlflowTracker` logs to MLflow, by default to
`mlflow.db` and `mlflow/` beside the run directories, and stores its run id in the run directory.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recsys.errors import ConfigError

T = TypeVar("T")

ID_FILE = "mlflow.json"
SQLITE, STORE = "sqlite:///", "mlflow.db"
BATCH = 500  # MLflow takes at most 1000 metrics and 100 parameters a request
PARAMETER_BATCH, PARAMETER_LENGTH = 100, 6000

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Log metrics, named `part/metric`, at a step."""

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        """Yield from `iterable`, with a progress display."""


class NullTracker:
    """Logs nothing and shows no progress."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        return None

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        return iterable


class MlflowTracker(NullTracker):
    """Logs parameters, tags, metrics and files to one MLflow run; errors of MLflow never stop the caller.

    The same run directory with the same parameters continues its MLflow run; other parameters start a new one, as
    MLflow's are immutable. One background thread sends requests in order. The environment variable
    `MLFLOW_TRACKING_URI` overrides the local store. The local store is in `home`, by default beside the run directory.
    """

    def __init__(
        self,
        run_directory: Path,
        parameters: Mapping[str, Any],
        *,
        experiment: str = "recsys",
        home: Path | None = None,
    ) -> None:
        self._directory = run_directory.absolute()
        self._home = self._directory.parent if home is None else home.absolute()
        self._parameters = {k: str(v)[:PARAMETER_LENGTH] for k, v in parameters.items()}
        self._pending: list[tuple[str, float, int, int]] = []
        self._client: Any = None
        self._run_id = ""
        self._failed = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        # In the caller's thread: concurrent imports could expose partially initialized modules to the stages.
        self._attempt(self._connect)
        self._submit(lambda: self._open(experiment))

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        now = int(time.time() * 1000)
        # MLflow does not allow '@' in names of metrics.
        self._pending.extend((name.replace("@", "_at_"), float(value), now, step) for name, value in values.items())
        if len(self._pending) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send pending metrics."""
        pending, self._pending = self._pending, []
        if pending:
            self._submit(lambda: self._send(pending))

    def tag(self, name: str, value: str) -> None:
        """Set a tag, such as the data fingerprint."""
        self._submit(lambda: self._client.set_tag(self._run_id, name, value))

    def file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self._submit(lambda: self._client.log_artifact(self._run_id, str(path)))

    def close(self, status: str = "FINISHED") -> None:
        """Send pending metrics and end the MLflow run as FINISHED, FAILED or KILLED."""
        self.flush()
        self._submit(lambda: self._client.set_terminated(self._run_id, status))
        self._worker.shutdown()

    def _connect(self) -> None:
        # Usage statistics would need the network.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._home.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri(None, home=self._home))

    def _open(self, experiment: str) -> None:
        id_file = self._directory / ID_FILE
        wanted = {"parameters": self._parameters, "tracking_uri": self._client.tracking_uri}
        known = json.loads(id_file.read_text()) if id_file.exists() else {}
        if {name: known.get(name) for name in wanted} == wanted:
            self._run_id = known["run_id"]
            self._client.update_run(self._run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(experiment)
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (self._home / "mlflow").as_uri()
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, local)
        self._run_id = self._client.create_run(
            experiment_id, run_name=self._directory.relative_to(self._home).as_posix()
        ).info.run_id
        self._send_parameters()
        id_file.write_text(json.dumps({"run_id": self._run_id, **wanted}, indent=2) + "\n")

    def _send_parameters(self) -> None:
        from mlflow.entities import Param

        items = [Param(name, value) for name, value in self._parameters.items()]
        for start in range(0, len(items), PARAMETER_BATCH):
            self._client.log_batch(self._run_id, params=items[start : start + PARAMETER_BATCH])

    def _send(self, pending: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(pending), BATCH):
            metrics = [Metric(name, value, now, step) for name, value, now, step in pending[start : start + BATCH]]
            self._client.log_batch(self._run_id, metrics=metrics)

    def _submit(self, action: Callable[[], object]) -> None:
        self._worker.submit(self._attempt, action)

    def _attempt(self, action: Callable[[], object]) -> None:
        """Run an action; after the first error tracking is disabled, as it must not stop the run."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001
            self._failed = True
            reason = (str(error).splitlines() or [""])[0]
            logger.warning("tracking is disabled by an error, the run continues: %s: %s", type(error).__name__, reason)


def tracking_uri(given: str | None, *, home: Path) -> str:
    """The absolute tracking URI: the given one, `MLFLOW_TRACKING_URI`, or `mlflow.db` in `home`.

    Raises:
        ConfigError: it is not a URI.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home.absolute() / STORE}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    if "://" not in uri and uri != "databricks":
        raise ConfigError(f"registry {uri!r} is not a URI; give one such as sqlite:///runs/mlflow.db or https://host")
    return uri


def database(uri: str) -> Path | None:
    """The database file of a local registry; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
