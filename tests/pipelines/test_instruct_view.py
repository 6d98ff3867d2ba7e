"""`recsys instruct RUN --show N`: what is shown are the run's own examples, under their templates."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import FOLDERS, cli
from pipelines.config import RunConfig
from pipelines.instruct_view import shown_examples
from pipelines.runner import load_stage, run_stages
from recsys.artifacts import RunDirectory, StageRun
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.instructions.config import TaskWeights
from recsys.tables import SemanticIds
from recsys.tracking import NullTracker, Tracker
from tests.pipelines.finished import configured

TOKEN = re.compile(r"<([a-z])_(\d+)>")


def written(text: str, levels: int) -> list[tuple[int, ...]]:
    """The semantic ids in a text, in order."""
    found = TOKEN.findall(text)
    assert [level for level, _ in found] == [chr(ord("a") + n % levels) for n in range(len(found))]
    codes = [int(code) for _, code in found]
    return [tuple(codes[start : start + levels]) for start in range(0, len(codes), levels)]


def test_histories_and_texts_are_those_of_the_catalogue(run: RunDirectory) -> None:
    dataset = Dataset.load(run.folder("prepare"))
    ids = SemanticIds.load(run.folder("tokenize") / "discrete" / "semantic_ids.parquet")
    item_of = {tuple(codes): item for item, codes in enumerate(ids.codes.tolist())}
    training = training_histories(dataset.interactions, dataset.catalog)
    histories = {tuple(training[user].tolist()) for user in range(len(training))}
    examples = shown_examples(run, 3, seed=0)
    assert [example.task for example in examples] == [
        name for name in ("sequential", "item_to_id", "id_to_item") for _ in range(3)
    ]
    for task, prompt, response in examples:
        side = prompt if task == "id_to_item" else response
        items = tuple(item_of[codes] for codes in written(side, ids.num_levels))
        if task == "sequential":
            assert items in histories
            assert not TOKEN.search(prompt)
        else:
            (item,) = items
            texts = dataset.catalog.frame.select(dataset.catalog.text_columns).row(item)
            text = prompt if task == "item_to_id" else response
            assert any(part and part in text for part in texts)


@pytest.fixture(scope="module")
def instructed() -> Iterator[RunDirectory]:
    """A run of the first stages and the instructions of every task, with semantic ids that are made up."""

    def made_up(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        if run.stage == "tokenize":
            ids = Dataset.load(run.read("prepare")).catalog.item_ids
            codes = np.stack([np.arange(len(ids)) // 10, np.arange(len(ids)) % 10], axis=1)
            (run.out / "discrete").mkdir()
            SemanticIds(ids, codes, 10).save(run.out / "discrete" / "semantic_ids.parquet")

    weights = [f"instruct.weights.{name}=1" for name in TaskWeights.model_fields]
    config = configured("tokenize.kind=discrete", *weights)
    names = ["prepare", "embed", "tokenize", "instruct"]
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "run", FOLDERS)
        with directory.lock():
            run_stages(
                config,
                directory,
                config.stages,
                selected=names,
                tracker=NullTracker(),
                load=lambda stage: load_stage(stage) if stage.name in ("prepare", "instruct") else made_up,
            )
        yield directory


def test_every_task_is_shown_and_noted_with_the_source_of_its_texts(instructed: RunDirectory) -> None:
    dataset = Dataset.load(instructed.folder("prepare"))
    ids = SemanticIds.load(instructed.folder("tokenize") / "discrete" / "semantic_ids.parquet")
    item_of = {tuple(codes): item for item, codes in enumerate(ids.codes.tolist())}
    titles = dataset.catalog.titles()
    training = training_histories(dataset.interactions, dataset.catalog)
    shown = shown_examples(instructed, 5, seed=0)
    assert Counter(example.task for example in shown) == dict.fromkeys(TaskWeights.model_fields, 5)
    for task, prompt, response in shown:
        read, answer = ([item_of[codes] for codes in written(side, 2)] for side in (prompt, response))
        if task in ("history_to_title", "intention"):
            following = [titles.index(response)] if task == "history_to_title" else answer
            parts = [[*read, *following] == training[u].tolist()[: len(read) + 1] for u in range(len(training))]
            assert any(parts)
        elif task == "titles_to_id":
            assert read == []
            assert sum(line in titles for line in prompt.splitlines()) >= 1
            assert len(answer) == 1
        elif task == "query_to_id":
            assert (read, len(answer)) == ([], 1)
        elif task == "preference":
            assert response.startswith(("Categories: ", "Brand: ", "Words: "))
            assert any(read == training[u].tolist() for u in range(len(training)))
    notes = instructed.existing_record("instruct").notes
    composed = {name: {"composed": notes[name]} for name in ("intention", "query_to_id", "preference")}
    assert notes["text_sources"] == composed


def test_the_seed_draws_them_and_there_may_be_fewer(run: RunDirectory) -> None:
    assert shown_examples(run, 2, seed=0) == shown_examples(run, 2, seed=0) != shown_examples(run, 2, seed=1)
    stored = pl.read_parquet(run.folder("instruct") / "instructions.parquet")
    assert len(shown_examples(run, 10_000, seed=0)) == len(stored)


def test_the_command_shows_and_writes_nothing(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with pytest.raises(SystemExit) as ended:
        cli.main(["instruct", str(run.path), "--show", "2"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(out.splitlines()) >= 3 * 3
    assert "[" not in out.partition("item_to_id")[0], "nothing is taken for markup"
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    with pytest.raises(SystemExit):
        cli.main(["instruct", str(tmp_path), "--show", "2"])
    assert "is missing" in capsys.readouterr().err
