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
from recsys.data.policy import ServedPolicy
from recsys.evaluation import published
from recsys.evaluation.policies import by_policy
from recsys.tables import INTERACTION_SCHEMA, POLICIES, POLICY_TYPE, TEST, TRAIN, Rankings, SemanticIds
from recsys.tracking import NullTracker
from tests.evaluation import fakes
from tests.evaluation.test_published import known_as

SERVED = ServedPolicy("seen-left-out", "auto", 0, 6, 0.05)


def evaluated(folder: Path) -> tuple[dict[str, Any], str]:
    """metrics.json and report.html of a run."""
    directory = RunDirectory(folder / "tiny", FOLDERS)
    key = StageKey(settings={}, code=1, inputs={})
    reads = next(stage.reads for stage in STAGES if stage.name == "evaluate")
    with directory.lock():
        for name in reads:
            with directory.stage(name, key, ()) as made:
                _write(name, made.out)
        with directory.stage("evaluate", key, reads) as stage:
            run(RunConfig(), stage, NullTracker())
    out = directory.folder("evaluate")
    return json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text()


def test_the_stage_writes_metrics_and_report(tmp_path: Path) -> None:
    metrics, page = evaluated(tmp_path)
    kept, left_out = (metrics["policies"][policy]["systems"]["good"]["metrics"] for policy in POLICIES)
    assert kept["mrr@10"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert left_out["mrr@10"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 4)
    assert metrics["served"] == SERVED.to_json()
    assert metrics["tokens"]["unique_ids"] == 1.0
    assert "Recommendations of tiny" in page
    assert metrics["published"] is None
    assert "Published" not in page


def test_published_rows_stand_beside_those_that_keep_seen_items_whatever_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prepared").mkdir()
    _write("prepare", tmp_path / "prepared")
    known = known_as(Dataset.load(tmp_path / "prepared"))
    monkeypatch.setattr(published, "published_datasets", lambda: (known,))
    metrics, page = evaluated(tmp_path)
    assert [row["name"] for row in metrics["published"]["rows"]] == ["Weak", "Strong"]
    section = page.partition('<section id="published">')[2].partition("</section>")[0]
    assert "Strong" in section
    kept, left_out = (metrics["policies"][policy]["systems"]["good"]["metrics"]["ndcg@10"] for policy in POLICIES)
    row = section.partition("good (ours)")[2].partition("</tr>")[0]
    assert (f"{kept['value']:.4f}" in row, f"{left_out['value']:.4f}" in row) == (True, False)


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
        read = by_policy(fakes.rankings(), fakes.queries(), catalog)
        parts = [part.frame.with_columns(policy=pl.lit(policy, POLICY_TYPE)) for policy, part in read.items()]
        Rankings(pl.concat(parts)).save(out / "rankings.parquet")
        SERVED.save(out)
    else:
        (out / "training_log.jsonl").write_text('{"step": 1, "part/loss": 2.0}\n')
