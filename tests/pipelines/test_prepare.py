"""The stage writes a dataset that can be loaded, and the rows that it rejected."""

import json
from pathlib import Path

from pipelines import prepare
from pipelines.config import RunConfig
from pipelines.settings import validated
from recsys.artifacts import RunDirectory, StageKey
from recsys.data.dataset import Dataset
from recsys.tracking import NullTracker

KEY = StageKey(settings={}, code=1, inputs={})


def run_stage(path: Path, **settings: object) -> RunDirectory:
    config = validated(RunConfig, {"seed": 3, "prepare": settings})
    directory = RunDirectory(path, {"prepare": "01_dataset"})
    with directory.lock(), directory.stage("prepare", KEY, ()) as run:
        prepare.run(config, run, NullTracker())
    return directory


def test_a_dataset_and_its_card_are_written(tmp_path: Path) -> None:
    directory = run_stage(
        tmp_path, source="synthetic", synthetic={"num_users": 60, "num_items": 90, "num_interactions": 700}
    )
    dataset = Dataset.load(directory.verified("prepare"))
    assert len(dataset.interactions) > 0
    counts = {name: value for name, value in dataset.card.items() if name != "profile"}
    assert directory.existing_record("prepare").notes == counts
    assert not (directory.folder("prepare") / "rejected.jsonl").exists()


def test_rejected_rows_are_written(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    (source / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,,2\nu,b,9\n")
    directory = run_stage(tmp_path / "run", source=str(source), min_interactions=1, max_bad_share=0.5)
    lines = (directory.folder("prepare") / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file": "interactions.csv", "row": 3, "reason": "missing item id", "content": "u,2"}
    ]
