"""A planted drift is learned by a refresh, the parent stays what it was, and the child is a run like any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from pipelines import FOLDERS
from pipelines.bundling import bundle_run
from pipelines.cli import main
from pipelines.config import stored_config
from pipelines.execution import RunOptions
from pipelines.recommend import load_recommender
from pipelines.refresh.command import refresh
from pipelines.runner import status
from recsys.artifacts import RunDirectory
from recsys.data.dataset import Dataset
from recsys.data.extension import CARD, users_with_new
from recsys.files import fingerprint, read_json
from recsys.llm.storage import LanguageModel
from recsys.ranking.recommender import Request
from recsys.ranking.validation import LanguageModelValidator
from recsys.tables import SEEN_KEPT, TEST
from tests.pipelines import drift
from tests.pipelines.finished import finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

Metrics = dict[tuple[str, str], tuple[float, float]]


class Refreshed(NamedTuple):
    """A parent and its child; `content` is the fingerprint of the parent's folder before the refresh."""

    parent: RunDirectory
    child: RunDirectory
    later: Path
    content: str


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Refreshed:
    folder = tmp_path_factory.mktemp("refreshed")
    drift.write_tables(folder)
    parent = drift.finish(folder)
    content = fingerprint(parent.path)
    return Refreshed(parent, child_of(parent, folder / "later.csv"), folder / "later.csv", content)


def child_of(
    parent: RunDirectory, later: Path, *settings: str, out: Path | None = None, last: str | None = None
) -> RunDirectory:
    refresh(parent.path, later, settings, out=out, last=last, options=RunOptions(tracking=False))
    return RunDirectory(out or parent.path.with_name(f"{parent.path.name}-refreshed-{later.stem}"), FOLDERS)


def ndcg(child: RunDirectory) -> Metrics:
    """Group and source -> NDCG@10 before and after, with seen items kept."""
    rows = read_json(child.verified("refresh") / "refresh.json")["changes"]
    return {
        (row["group"], row["source"]): (row["before"], row["after"])
        for row in rows
        if (row["policy"], row["metric"]) == (SEEN_KEPT, "ndcg@10")
    }


def test_a_planted_drift_is_learned_and_old_users_do_not_collapse(refreshed: Refreshed) -> None:
    found = ndcg(refreshed.child)
    assert {source for _, source in found} == {"generative", "generative-item-scored"}
    for (group, _), (before, after) in found.items():
        assert (before < 0.3 and after > 0.7) if group == "new" else (before > 0.9 and after > 0.5)


def test_replay_is_what_keeps_old_users(refreshed: Refreshed, tmp_path: Path) -> None:
    without = child_of(refreshed.parent, refreshed.later, "refresh.replay=0", out=tmp_path / "c", last="refresh")
    for source in ("generative", "generative-item-scored"):
        assert ndcg(without)["old", source][1] < ndcg(refreshed.child)["old", source][1] - 0.1


def test_the_parent_stays_byte_for_byte_what_it_was(refreshed: Refreshed) -> None:
    assert fingerprint(refreshed.parent.path) == refreshed.content


def test_the_child_names_its_parent_and_shares_its_files(refreshed: Refreshed) -> None:
    parent, child = refreshed.parent, refreshed.child
    named = stored_config(child).parent
    assert named is not None
    assert named.path == parent.path
    assert read_json(child.folder("refresh") / "refresh.json")["parent"]["fingerprint"] == named.fingerprint
    for stage in ("embed", "tokenize", "instruct"):
        assert child.existing_record(stage).fingerprint() == parent.existing_record(stage).fingerprint()
    backbone = "backbone/model.safetensors"
    assert (child.folder("finetune") / backbone).samefile(parent.folder("finetune") / backbone)
    assert child.existing_record("finetune").files != parent.existing_record("finetune").files


def test_new_and_old_users_are_counted(refreshed: Refreshed) -> None:
    dataset = Dataset.load(refreshed.child.verified("prepare"))
    users = users_with_new(dataset, split=TEST)
    goes_on = drift.USERS - 30
    assert len(users) == goes_on + drift.NEW_USERS == dataset.card[CARD]["users"]
    changes = read_json(refreshed.child.folder("refresh") / "refresh.json")["changes"]
    assert {(row["group"], row["users"]) for row in changes} == {("new", len(users)), ("old", drift.USERS)}


def test_the_child_is_current_answers_and_is_bundled(refreshed: Refreshed, tmp_path: Path) -> None:
    config, child = stored_config(refreshed.child), refreshed.child
    assert {entry.state for entry in status(config, child, config.stages)} == {"current"}
    places = [*range(9), *(10 + drift.LATER * place for place in range(5))]
    request = Request(tuple(map(drift.item, places)), 1, None, exclude_seen=False)
    (answer,) = load_recommender(config, child).recommend([request])[0].items
    assert answer.item_id == drift.item(places[-1] + drift.LATER)
    bundle_run(child, config, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_a_second_refresh_does_nothing_and_says_so(refreshed: Refreshed, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(refreshed.child.path)
    child_of(refreshed.parent, refreshed.later)
    assert f"{refreshed.child.path} is up to date" in capsys.readouterr().err
    assert fingerprint(refreshed.child.path) == before


def test_test_items_reach_the_comparison_alone(refreshed: Refreshed, tmp_path: Path) -> None:
    frame = pl.read_csv(refreshed.later)
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    other = frame.with_columns(item_id=pl.when(last).then(pl.lit(drift.item(3))).otherwise("item_id"))
    other.write_csv(tmp_path / "later.csv")
    child = child_of(refreshed.parent, tmp_path / "later.csv", out=tmp_path / "child", last="finetune")
    found, expected = (run.existing_record("finetune").files for run in (child, refreshed.child))
    assert found == expected


def test_a_killed_refresh_continues_to_the_same_model(
    refreshed: Refreshed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    validate = LanguageModelValidator.__call__

    def killed(validator: LanguageModelValidator, model: LanguageModel) -> float:
        calls.append(validate(validator, model))
        if len(calls) == 7:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(LanguageModelValidator, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        child_of(refreshed.parent, refreshed.later, out=tmp_path / "child", last="finetune")
    child = child_of(refreshed.parent, refreshed.later, out=tmp_path / "child", last="finetune")
    per_epoch = 2  # groups of users
    assert len(calls) < (stored_config(child).refresh.epochs + 1) * per_epoch + 7, "finished epochs are not repeated"
    assert child.existing_record("finetune").files == refreshed.child.existing_record("finetune").files


def test_a_child_is_refreshed_like_any_run(refreshed: Refreshed, tmp_path: Path) -> None:
    frame = pl.read_csv(refreshed.later)
    frame.with_columns(pl.col("timestamp") + drift.PERIOD).write_csv(tmp_path / "latest.csv")
    child = child_of(
        refreshed.child, tmp_path / "latest.csv", "refresh.epochs=1", out=tmp_path / "second", last="refresh"
    )
    before = Dataset.load(refreshed.child.verified("prepare")).interactions
    assert len(Dataset.load(child.verified("prepare")).interactions) == len(before) + frame.height
    assert all(before > 0.5 for (group, _), (before, _) in ndcg(child).items() if group == "new")


def test_a_table_without_the_columns_is_refused_in_one_line(
    refreshed: Refreshed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.read_csv(refreshed.later).rename({"user_id": "who"}).write_csv(tmp_path / "later.csv")
    line = ["refresh", str(refreshed.parent.path), str(tmp_path / "later.csv"), "--out", str(tmp_path / "child")]
    line += ["--no-tracking", "--to", "prepare"]
    with pytest.raises(SystemExit) as ended:
        main(line)
    errors = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error:")]
    assert ended.value.code == 2
    assert len(errors) == 1
    assert "user_id" in errors[0]
    assert "prepare.user_column" in errors[0]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--set", "prepare.user_column=who"])
    assert ended.value.code == 0


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[RunDirectory, Path]]:
    """A run with both routes on the generated dataset, and new interactions of its items."""
    with finished() as run:
        frame = Dataset.load(run.verified("prepare")).interactions.frame
        period = int(frame["timestamp"].to_numpy().max() - frame["timestamp"].to_numpy().min()) + 1
        users = frame["user_id"].unique(maintain_order=True).head(40)
        later = frame.filter(pl.col("user_id").is_in(users.implode())).with_columns(pl.col("timestamp") + period)
        later.select("user_id", "item_id", "timestamp").write_csv(tmp_path / "later.csv")
        yield run, tmp_path / "later.csv"


def test_both_routes_are_run_anew_on_the_refreshed_model(both: tuple[RunDirectory, Path], tmp_path: Path) -> None:
    child = child_of(both[0], both[1], "refresh.epochs=1", out=tmp_path / "child")
    config = stored_config(child)
    assert {entry.state for entry in status(config, child, config.stages)} == {"current"}
    served = load_recommender(config, child).recommend([Request((), 5, None)])[0]
    assert len(served.items) == 5
    bundle_run(child, config, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "manifest.json").exists()
