"""What a refresh takes from its parent: only a run that is whole and of one piece, and nothing else is set."""

from pathlib import Path

import pytest

from pipelines import FOLDERS, REFRESH, STAGES, refreshed
from pipelines.config import CONFIG, RunConfig, dump_yaml, flatten, load_config, stored_config
from pipelines.execution import RunOptions
from pipelines.refresh import link
from pipelines.refresh.command import child_config, refresh
from pipelines.refresh.parent import TAKEN, named, parent_run
from pipelines.runner import run_stages
from recsys.artifacts import RunDirectory, StageRun
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.files import write_text
from recsys.llm.config import RefreshConfig
from recsys.tracking import NullTracker, Tracker

PREPARE, TOKENIZE = "prepare.min_interactions=2", "tokenize.epochs=3"


def fake(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    """Writes a file that depends on the settings, into each part of a stage."""
    run.note(text_dimensions=3)
    content = f"{run.stage} {config.prepare.min_interactions} {config.tokenize.epochs}"
    for part in ("", "discrete") if run.stage == "tokenize" else ("",):
        (run.out / part).mkdir(exist_ok=True)
        (run.out / part / "file.txt").write_text(content)


def started(path: Path, *settings: str, stages: tuple[str, ...] = TAKEN) -> RunDirectory:
    """A run of which some stages are finished."""
    config, directory = load_config("demo", ["tokenize.kind=discrete", *settings]), RunDirectory(path, FOLDERS)
    with directory.lock():
        write_text(path / CONFIG, dump_yaml(config))
        run_stages(config, directory, config.stages, selected=stages, tracker=NullTracker(), load=lambda _: fake)
    return directory


@pytest.fixture
def parent(tmp_path: Path) -> RunDirectory:
    return started(tmp_path / "parent")


@pytest.fixture
def later(tmp_path: Path) -> Path:
    path = tmp_path / "later.csv"
    path.write_text("user_id,item_id,timestamp\n")
    return path


def test_a_parent_is_named_by_its_content_not_its_place(parent: RunDirectory, tmp_path: Path) -> None:
    found = named(parent, stored_config(parent))
    assert found.path == parent.path
    elsewhere, other = started(tmp_path / "elsewhere"), started(tmp_path / "other", PREPARE)
    assert named(elsewhere, stored_config(elsewhere)).fingerprint == found.fingerprint
    assert named(other, stored_config(other)).fingerprint != found.fingerprint


def test_a_child_takes_the_configuration_and_reads_the_new_table(parent: RunDirectory, later: Path) -> None:
    config = child_config(parent, later, ["refresh.replay=0.25", "prepare.user_column=who"])
    assert (config.prepare.source, config.prepare.kind) == (str(later), "auto")
    assert (config.refresh.replay, config.prepare.user_column) == (0.25, "who")
    assert config.tokenize == stored_config(parent).tokenize
    assert config.parent is not None
    assert parent_run(config).path == parent.path


def test_a_child_of_a_generated_dataset_reads_a_table(tmp_path: Path, later: Path) -> None:
    run = started(tmp_path / "run", "prepare.kind=synthetic")
    assert child_config(run, later, []).prepare.kind == "auto"


def test_stages_of_a_child_are_the_usual_ones_and_the_comparison(parent: RunDirectory, later: Path) -> None:
    stages = child_config(parent, later, []).stages
    usual = [stage.name for stage in stored_config(parent).stages]
    usual.insert(usual.index("finetune") + 1, REFRESH.name)
    assert [stage.name for stage in stages] == usual


def test_every_setting_of_a_refresh_is_of_one_stage() -> None:
    used = [key for stage in refreshed(STAGES) for key in stage.settings if key.startswith("refresh.")]
    assert sorted(used) == sorted(f"refresh.{name}" for name in RefreshConfig.model_fields)


def test_settings_of_stages_of_a_child_exist(parent: RunDirectory, later: Path) -> None:
    config = child_config(parent, later, [])
    known = flatten(config.model_dump(mode="json"))
    for setting in (setting for stage in config.stages for setting in (*stage.settings, *stage.sources)):
        assert any(f"{key}.".startswith(f"{setting}.") for key in known), setting


def test_what_is_taken_is_linked_and_noted(parent: RunDirectory, later: Path, tmp_path: Path) -> None:
    config, child = child_config(parent, later, []), RunDirectory(tmp_path / "child", FOLDERS)
    with child.lock():
        run_stages(config, child, config.stages, selected=["tokenize"], tracker=NullTracker(), load=lambda _: link.run)
    assert child.existing_record("tokenize").notes == {"text_dimensions": 3}
    for name in ("file.txt", "discrete/file.txt"):
        assert (child.folder("tokenize") / name).samefile(parent.folder("tokenize") / name)


@pytest.mark.parametrize(
    ("stages", "message"),
    [(TAKEN[:-1], "05_language_model is missing; run the stage 'finetune' first"), ((), "run the stage 'prepare'")],
)
def test_an_unfinished_parent_is_refused(tmp_path: Path, later: Path, stages: tuple[str, ...], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        child_config(started(tmp_path / "run", stages=stages), later, [])


def test_a_damaged_parent_is_refused_before_anything_is_written(parent: RunDirectory, later: Path) -> None:
    path = parent.folder("embed") / "file.txt"
    path.write_text(path.read_text().replace("e", "x"))
    with pytest.raises(ArtifactError, match="is corrupted: its sha256 is not the one written"):
        refresh(parent.path, later, [], out=None, last=None, options=RunOptions(tracking=False))
    assert sorted(entry.name for entry in parent.path.parent.iterdir()) == ["later.csv", "parent"]


def test_a_parent_whose_model_is_of_other_tokens_is_refused(parent: RunDirectory, later: Path) -> None:
    started(parent.path, TOKENIZE, stages=("tokenize",))
    with pytest.raises(ArtifactError, match="was trained on another 03_tokens than is there now"):
        child_config(parent, later, [])


def test_a_parent_that_changed_since_is_refused(parent: RunDirectory, later: Path) -> None:
    config = child_config(parent, later, [])
    started(parent.path, PREPARE)
    with pytest.raises(ArtifactError, match="is not the run that was refreshed"):
        parent_run(config)


def test_a_parent_without_a_language_model_is_refused(tmp_path: Path, later: Path) -> None:
    run = started(tmp_path / "run", "tokenize.kind=continuous", stages=("prepare",))
    with pytest.raises(ConfigError, match="has no language model to train on"):
        child_config(run, later, [])


@pytest.mark.parametrize("setting", ["finetune.lora.rank=2", "tokenize.num_levels=2", "embed.dimensions=8", "seed=3"])
def test_what_is_taken_from_the_parent_cannot_be_set(parent: RunDirectory, later: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {setting}: a refreshed run takes that from its parent"):
        child_config(parent, later, [setting])


def test_a_table_that_is_not_there_is_refused(parent: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist; name a table of new interactions"):
        child_config(parent, tmp_path / "none.csv", [])


def test_a_run_of_its_own_is_not_overwritten(parent: RunDirectory, later: Path, tmp_path: Path) -> None:
    other = started(tmp_path / "other")
    for out in (other.path, parent.path):
        with pytest.raises(ArtifactError, match=r"is a run already, no refresh and not of .*; choose another --out"):
            refresh(parent.path, later, [], out=out, last=None, options=RunOptions(tracking=False))


def test_an_unknown_last_stage_is_refused(parent: RunDirectory, later: Path) -> None:
    with pytest.raises(ConfigError, match="--to finetun: unknown stage; did you mean 'finetune'"):
        refresh(parent.path, later, [], out=None, last="finetun", options=RunOptions(tracking=False))
