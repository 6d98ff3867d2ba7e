"""The evaluate stage on a run directory of fakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import FOLDERS, STAGES
from pipelines.config import RunConfig
from pipelines.evaluate import run
from recsys.artifacts import RunDirectory, StageKey
from recsys.data.dataset import Dataset
from recsys.evaluation import published
from recsys.tables import INTERACTION_SCHEMA, TEST, TRAIN, SemanticIds
from recsys.tracking import NullTracker
from tests.evaluation import fakes
from tests.evaluation.test_published import known_as


def evaluated(folder: Path, **notes: bool) -> tuple[dict[str, Any], str]:
    """metrics.json and report.html of a run whose stage `recommend` left these notes."""
    directory = RunDirectory(folder / "tiny", FOLDERS)
    key = StageKey(settings={}, code=1, inputs={})
    reads = next(stage.reads for stage in STAGES if stage.name == "evaluate")
    with directory.lock():
        for name in reads:
            with directory.stage(name, key, ()) as made:
                _write(name, made.out)
                made.note(**notes if name == "recommend" else {})
        with directory.stage("evaluate", key, reads) as stage:
            run(RunConfig(), stage, NullTracker())
    out = directory.folder("evaluate")
    return json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text()


def test_the_stage_writes_metrics_and_report(tmp_path: Path) -> None:
    metrics, page = evaluated(tmp_path)
    assert metrics["systems"]["good"]["metrics"]["hr@10"]["value"] == 3 / 4
    assert metrics["tokens"]["unique_ids"] == 1.0
    assert "Recommendations of tiny" in page
    assert metrics["published"] is None
    assert "Published" not in page


@pytest.mark.parametrize(("notes", "ours"), [({"exclude_seen": False}, 3), ({"exclude_seen": True}, 0)])
def test_published_rows_stand_beside_rows_that_keep_seen_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: dict[str, bool], ours: int
) -> None:
    (tmp_path / "prepared").mkdir()
    _write("prepare", tmp_path / "prepared")
    known = known_as(Dataset.load(tmp_path / "prepared"))
    monkeypatch.setattr(published, "published_datasets", lambda: (known,))
    metrics, page = evaluated(tmp_path, **notes)
    assert [row["name"] for row in metrics["published"]["rows"]] == ["Weak", "Strong"]
    assert "Strong" in page
    assert page.count("(ours)") == ours
    assert ("no row of it is comparable" in page) == (ours == 0)


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
