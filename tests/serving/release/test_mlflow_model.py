"""A published model answers in a process that has only the package, in any folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipelines.bundling import bundle_run
from recsys.artifacts import RunDirectory
from serving.bundle.bundle import Bundle, open_bundle
from serving.bundle.golden import require_golden
from serving.engine.batch import recommend_rows
from serving.engine.engine import BundleEngine
from serving.release.registry import publish, resolve
from tests.pipelines.finished import configured, finished

pytestmark = pytest.mark.slow

ONE_ROUTE = "tokenize.kind=discrete"
PREDICT = """
import json, sys, warnings
import pandas as pd
warnings.simplefilter("ignore")
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/recsys@champion")
rows = json.loads(sys.argv[2])
found = [model.predict(pd.DataFrame(rows)), model.predict(pd.DataFrame({"history": [json.dumps(rows["history"][0])]}))]
print(json.dumps([table.to_dict("list") for table in found]))
"""


@pytest.fixture(scope="module")
def run() -> Iterator[RunDirectory]:
    with finished(ONE_ROUTE) as directory:
        yield directory


@pytest.fixture(scope="module")
def bundle(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_run(run, configured(ONE_ROUTE), tmp_path_factory.mktemp("bundle") / "b")


def test_a_published_model_answers_in_another_process(bundle: Bundle, root: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    publish(bundle.folder, name="recsys", alias="champion", uri=uri)
    engine = BundleEngine.load(bundle.folder)
    known = pl.read_parquet(bundle.folder / "catalog.parquet")["item_id"][:3].to_list()
    rows = {"history": [known, []], "k": [3, 5], "user_id": ["u", None]}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, json.dumps(rows)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(root), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads(done.stdout.splitlines()[-1])
    wanted = recommend_rows(engine, [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)])
    assert list(first) == ["row", "rank", "item_id", "title", "score"]
    assert first["row"] == [0] * 3 + [1] * 5
    assert first["item_id"] == wanted["item_id"].to_list()
    assert first["title"] == wanted["title"].to_list()
    assert first["score"] == pytest.approx(wanted["score"].to_list(), abs=1e-4)
    assert second["item_id"][:3] == first["item_id"][:3]
    assert len(second["item_id"]) == 10


def test_what_comes_back_from_the_registry_is_what_was_bundled(bundle: Bundle, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    publish(bundle.folder, name="recsys", alias="champion", uri=uri)
    folder = resolve("models:/recsys@champion", uri=uri, cache=tmp_path / "cache")
    assert open_bundle(folder).manifest == bundle.manifest
    require_golden(BundleEngine.load(folder), folder)
