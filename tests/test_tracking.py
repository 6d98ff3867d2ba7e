"""Tracking with a real MLflow store: values are kept, a resumed run continues, a failure does not stop the run."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from recsys.tracking import ID_FILE, MlflowTracker, NullTracker


@pytest.fixture(autouse=True)
def _local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def record(run: Path, metrics: Iterator[tuple[float, int]], parameters: dict[str, object]) -> str:
    tracker = MlflowTracker(run, parameters)
    for value, step in metrics:
        tracker.log({"sasrec/validation_ndcg@10": value}, step=step)
    tracker.tag("data_fingerprint", "abc")
    tracker.file(run / "report.html")
    tracker.close()
    run_id: str = json.loads((run / ID_FILE).read_text())["run_id"]
    return run_id


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_parameters_metrics_and_report_are_stored_and_a_resumed_run_continues(tmp_path: Path) -> None:
    run = tmp_path / "beauty"
    run.mkdir()
    (run / "report.html").write_text("<p>report</p>")
    parameters: dict[str, object] = {"tokenize.num_levels": 4, "prepare.source": None}
    parameters |= {f"many.{i}": i for i in range(120)}
    first = record(run, iter([(0.1, 1), (0.2, 2)]), parameters)
    second = record(run, iter([(0.3, 3)]), parameters)
    other = record(run, iter([]), parameters | {"tokenize.num_levels": 3})

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_run(first)
    assert (first == second, first == other) == (True, False)
    assert (found.data.params["tokenize.num_levels"], found.data.params["many.119"]) == ("4", "119")
    history = client.get_metric_history(first, "sasrec/validation_ndcg_at_10")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert found.data.tags["data_fingerprint"] == "abc"
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "beauty"
    kept = list((tmp_path / "mlflow").rglob("report.html"))
    assert [p.read_text() for p in kept] == ["<p>report</p>"] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_runs_inside_a_run_are_stored_with_it_and_named_by_their_path(tmp_path: Path) -> None:
    inner = tmp_path / "demo" / "seeds" / "1"
    inner.mkdir(parents=True)
    MlflowTracker(inner, {"seed": 1}, home=tmp_path).close()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = json.loads((inner / ID_FILE).read_text())["run_id"]
    assert client.get_run(run_id).info.run_name == "demo/seeds/1"


def test_a_failure_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown://nowhere")
    with caplog.at_level(logging.WARNING, logger="recsys.tracking"):
        tracker = MlflowTracker(tmp_path / "run", {"seed": 0})
        tracker.log({"loss": 1.0}, step=0)
        tracker.close()
    (record,) = caplog.records
    assert record.getMessage().startswith("tracking is disabled by an error, the run continues")


def test_the_null_tracker_passes_everything_through() -> None:
    tracker = NullTracker()
    tracker.log({"loss": 1.0}, step=0)
    assert list(tracker.track([1, 2, 3], "counting")) == [1, 2, 3]
