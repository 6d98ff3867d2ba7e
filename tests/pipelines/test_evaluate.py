"""The evaluate stage on a run directory of fakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from pipelines import FOLDERS, STAGES
from pipelines.config import RunConfig
from pipelines.evaluate import run
from recsys.artifacts import RunDirectory, StageKey
from recsys.tables import INTERACTION_SCHEMA, TEST, TRAIN, SemanticIds
from recsys.tracking import NullTracker
from tests.evaluation import fakes


def test_the_stage_writes_metrics_and_report(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "tiny", FOLDERS)
    key = StageKey(settings={}, code=1, inputs={})
    reads = next(stage.reads for stage in STAGES if stage.name == "evaluate")
    with directory.lock():
        for name in reads:
            with directory.stage(name, key, ()) as made:
                _write(name, made.out)
        with directory.stage("evaluate", key, reads) as stage:
            run(RunConfig(), stage, NullTracker())
    metrics = json.loads((directory.folder("evaluate") / "metrics.json").read_text())
    assert metrics["systems"]["good"]["metrics"]["hr@10"]["value"] == 3 / 4
    assert metrics["tokens"]["unique_ids"] == 1.0
    assert "Recommendations of tiny" in (directory.folder("evaluate") / "report.html").read_text()


def _write(stage: str, out: Path) -> None:
    """The part of a stage's folder that the evaluation looks at."""
    catalog = fakes.catalog()
    if stage == "prepare":
        queries = fakes.queries()
        rows = [
            (user, catalog.item_ids[item], time, TEST if time == len(queries.histories[u]) else TRAIN)
            for u, user in enumerate(queries.user_ids)
            for time, item in enumerate([*queries.histories[u], queries.targets[u]])
        ]
        pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row").write_parquet(out / "interactions.parquet")
        catalog.frame.write_parquet(out / "items.parquet")
        (out / "data_card.json").write_text("{}")
    elif stage == "tokenize":
        (out / "discrete").mkdir()
        SemanticIds(catalog.item_ids, np.arange(6)[:, None], 6).save(out / "discrete" / "semantic_ids.parquet")
    elif stage == "recommend":
        fakes.rankings().save(out / "rankings.parquet")
    else:
        (out / "training_log.jsonl").write_text('{"step": 1, "part/loss": 2.0}\n')
