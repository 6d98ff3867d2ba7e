"""The runner on two small stages: what is current is skipped, what changed is run again, a kill changes nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import Stage
from pipelines.config import RunConfig
from pipelines.runner import LOG, StageFunction, StageTracker, run_stages, status
from pipelines.settings import validated
from recsys.artifacts import RunDirectory, StageRun
from recsys.errors import ArtifactError
from recsys.tracking import NullTracker, Tracker

MAKE = Stage("make", "01_make", (), 1, ("embed.dimensions", "embed.vectors"), "Make it.", ("embed.vectors",))
USE = Stage("use", "02_use", ("make",), 1, ("tokenize",), "Use it.")
STAGES = (MAKE, USE)


def make(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    source = config.embed.vectors.read_text() if config.embed.vectors else ""
    (run.out / "text").write_text(f"{config.embed.dimensions // 100}{source}")


def use(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    """Counts to five with a checkpoint at every second step; dies at step 3 when a file says so."""
    checkpoint, bomb = run.work / "step", run.directory.path / ".bomb"
    start = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for step in range(start, 5):
        tracker.log({"use/loss": 1 / (step + 1)}, step=step)
        if step % 2 == 1:
            checkpoint.write_text(str(step))
        if step == 3 and bomb.exists():
            bomb.unlink()
            raise KeyboardInterrupt
    (run.out / "text").write_text((run.read("make") / "text").read_text() + str(config.tokenize.num_levels))


CODE: dict[str, StageFunction] = {"make": make, "use": use}


class Flow:
    """A run directory and its configuration, run with the two stages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, dict[str, object]] = {}

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path, {stage.name: stage.folder for stage in STAGES})

    def run(
        self, selected: Sequence[str] = ("make", "use"), *, stages: Sequence[Stage] = STAGES, force: bool = False
    ) -> list[str]:
        directory = self.directory
        with directory.lock():
            return run_stages(
                validated(RunConfig, self.values),
                directory,
                stages,
                selected=selected,
                tracker=NullTracker(),
                force=force,
                load=lambda stage: CODE[stage.name],
            )

    def states(self) -> list[tuple[str, str]]:
        return [
            (entry.state, entry.reason) for entry in status(validated(RunConfig, self.values), self.directory, STAGES)
        ]


@pytest.fixture
def flow(tmp_path: Path) -> Flow:
    return Flow(tmp_path / "run")


def test_current_stages_are_skipped(flow: Flow) -> None:
    assert flow.run() == ["make", "use"]
    assert flow.run() == []
    assert flow.run(["use"], force=True) == ["use"]
    assert flow.states() == [("current", ""), ("current", "")]


def test_a_changed_setting_makes_its_stage_stale_and_is_named(flow: Flow) -> None:
    flow.run()
    flow.values = {"tokenize": {"num_levels": 2}}
    assert flow.states() == [("current", ""), ("stale", "tokenize.num_levels changed (4 -> 2)")]
    assert flow.run() == ["use"]


def test_later_stages_are_stale_but_run_only_if_their_input_changed(flow: Flow) -> None:
    flow.run()
    flow.values = {"embed": {"dimensions": 129}}
    assert [state for state, _ in flow.states()] == ["stale", "stale"]
    assert flow.run() == ["make"], "129 // 100 gives the same file, so its reader is current"
    flow.values = {"embed": {"dimensions": 200}}
    assert flow.run() == ["make", "use"]


def test_a_stage_that_reads_a_subfolder_is_stale_only_if_that_changed(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_parts(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        for part, text in (("sub", config.embed.dimensions // 100), ("other", config.embed.dimensions)):
            (run.out / part).mkdir()
            (run.out / part / "text").write_text(str(text))

    def use_part(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        (run.out / "text").write_text((run.read("make/sub") / "text").read_text())

    monkeypatch.setitem(CODE, "make", make_parts)
    monkeypatch.setitem(CODE, "use", use_part)
    stages = (MAKE, USE._replace(reads=("make/sub",)))
    assert flow.run(stages=stages) == ["make", "use"]
    flow.values = {"embed": {"dimensions": 129}}
    assert flow.run(stages=stages) == ["make"]
    flow.values = {"embed": {"dimensions": 200}}
    assert flow.run(stages=stages) == ["make", "use"]


def test_a_setting_that_no_stage_reads_changes_nothing(flow: Flow) -> None:
    flow.run()
    flow.values = {"evaluate": {"num_examples": 3}}
    assert flow.run() == []


def test_a_new_setting_that_is_left_out_makes_no_finished_stage_stale(flow: Flow) -> None:
    older = MAKE._replace(settings=("embed.dimensions",), sources=())  # did not know embed.vectors yet
    flow.run(stages=(older, USE))
    assert flow.run() == []
    assert flow.states() == [("current", ""), ("current", "")]


def test_a_new_code_version_runs_again(flow: Flow) -> None:
    flow.run()
    assert flow.run(stages=(MAKE, USE._replace(version=2))) == ["use"]


def test_contents_of_a_source_count_and_not_its_path(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    flow.values = {"embed": {"vectors": str(tmp_path / "a")}}
    flow.run()
    flow.values = {"embed": {"vectors": str(tmp_path / "b")}}
    assert flow.run() == []
    (tmp_path / "b").write_text("changed")
    assert flow.states()[0] == ("stale", "the contents of embed.vectors changed")
    assert flow.run() == ["make", "use"]


def test_a_stage_refuses_inputs_that_are_not_current(flow: Flow) -> None:
    with pytest.raises(ArtifactError, match="use reads make, which is missing"):
        flow.run(["use"])
    flow.run()
    flow.values = {"embed": {"dimensions": 200}}
    with pytest.raises(
        ArtifactError, match=r"make, which is stale \(embed.dimensions changed \(128 -> 200\)\)"
    ) as caught:
        flow.run(["use"])
    assert "run it first" in str(caught.value)


@pytest.mark.parametrize("stage", ["make", "use"])
def test_a_damaged_file_is_refused_by_name(flow: Flow, stage: str) -> None:
    flow.run()
    path = flow.directory.folder(stage) / "text"
    path.write_text("far too long")
    assert "damaged" in [state for state, _ in flow.states()]
    with pytest.raises(ArtifactError, match="12 bytes") as caught:
        flow.run()
    assert str(path) in str(caught.value)


def test_an_interrupted_stage_resumes_with_the_same_result_and_the_same_log(flow: Flow, tmp_path: Path) -> None:
    whole = Flow(tmp_path / "whole")
    whole.run()
    flow.path.mkdir()
    (flow.path / ".bomb").touch()
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    assert flow.states()[1][0] == "missing"
    with (flow.path / ".work" / "02_use" / LOG).open("a") as file:
        file.write('{"step": 4, "use/lo')
    assert flow.run() == ["use"]
    for name in ("text", LOG):
        assert (flow.path / "02_use" / name).read_text() == (whole.path / "02_use" / name).read_text()
    assert flow.directory.existing_record("use").fingerprint() == whole.directory.existing_record("use").fingerprint()


def test_the_log_keeps_every_metric_once(tmp_path: Path) -> None:
    tracker = StageTracker(NullTracker(), tmp_path / "kept")
    for loss in (2.0, 1.0):
        tracker.log({"a/loss": loss}, step=1)
    tracker.log({"b/loss": 5.0}, step=1)
    tracker.publish(tmp_path / "log")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [{"step": 1, "a/loss": 1.0}, {"step": 1, "b/loss": 5.0}]


def test_a_stage_may_read_only_declared_inputs(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    def peek(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        run.read("use")

    monkeypatch.setitem(CODE, "make", peek)
    with pytest.raises(AssertionError, match="does not declare"):
        flow.run()
    assert flow.states()[0][0] == "missing"


def test_notes_reach_the_record(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    def noting(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        run.note(rows=3, dropped={"k-core": 2})

    monkeypatch.setitem(CODE, "make", noting)
    flow.run(["make"])
    assert flow.directory.existing_record("make").notes == {"rows": 3, "dropped": {"k-core": 2}}


class Seeds:
    """Flows in directories beside each other, each a sibling of the other."""

    def __init__(self, root: Path, *, stages: Sequence[Stage] = STAGES) -> None:
        self.flows = [Flow(root / name) for name in ("one", "two")]
        self._stages = stages

    def run(self, number: int) -> list[str]:
        directories = [
            RunDirectory(flow.path, {stage.name: stage.folder for stage in self._stages}) for flow in self.flows
        ]
        with directories[number].lock():
            return run_stages(
                validated(RunConfig, self.flows[number].values),
                directories[number],
                self._stages,
                selected=[stage.name for stage in self._stages],
                tracker=NullTracker(),
                load=lambda stage: CODE[stage.name],
                siblings=[directories[1 - number]],
            )


def test_a_stage_with_an_equal_key_is_adopted_and_not_run(tmp_path: Path) -> None:
    seeds = Seeds(tmp_path, stages=(MAKE._replace(seeds=()), USE))
    seeds.flows[1].values = {"seed": 1}
    assert seeds.run(0) == ["make", "use"]
    assert seeds.run(1) == ["use"], "only use has a seed"
    texts = [(flow.path / "01_make" / "text") for flow in seeds.flows]
    assert texts[0].samefile(texts[1])


def test_the_first_seed_that_is_set_counts(tmp_path: Path) -> None:
    seeds = Seeds(tmp_path, stages=(MAKE._replace(seeds=("prepare.synthetic.seed", "seed")), USE))
    seeds.flows[1].values = {"seed": 1, "prepare": {"synthetic": {"seed": 0}}}
    assert seeds.run(0) == ["make", "use"]
    assert seeds.run(1) == ["use"]
    seeds.flows[1].values = {"seed": 1, "prepare": {"synthetic": {"seed": 1}}}
    assert seeds.run(1) == ["make"], "use reads the same text"


def seen_siblings(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Path | None]:
    """The siblings that a stage gets, each time that it runs."""
    siblings = []

    def seeing(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        siblings.append(run.sibling)
        (run.out / "text").write_text("seen")

    monkeypatch.setitem(CODE, name, seeing)
    return siblings


@pytest.mark.parametrize(("dimensions", "found"), [(128, True), (200, False)])
def test_a_sibling_differs_by_the_seed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimensions: int, found: bool
) -> None:
    siblings = seen_siblings(monkeypatch, "make")
    seeds = Seeds(tmp_path)
    seeds.flows[1].values = {"seed": 1, "embed": {"dimensions": dimensions}}
    seeds.run(0)
    seeds.run(1)
    assert siblings == [None, seeds.flows[0].path / "01_make" if found else None]


@pytest.mark.parametrize(("name", "found"), [("make", True), ("prepare", False)])
def test_a_sibling_has_the_same_data_and_maybe_not_what_models_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: bool
) -> None:
    def seeded(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        (run.out / "text").write_text(str(config.seed))

    siblings = seen_siblings(monkeypatch, "use")
    monkeypatch.setitem(CODE, name, seeded)
    seeds = Seeds(tmp_path, stages=(MAKE._replace(name=name), USE._replace(reads=(name,))))
    seeds.flows[1].values = {"seed": 1}
    seeds.run(0)
    seeds.run(1)
    assert siblings == [None, seeds.flows[0].path / "02_use" if found else None]
