"""`recsys instruct RUN --show N`: what is shown are the run's own examples, under their templates."""

import re
from pathlib import Path

import polars as pl
import pytest

from pipelines import cli
from pipelines.instruct_view import shown_examples
from recsys.artifacts import RunDirectory
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.tables import SemanticIds

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
