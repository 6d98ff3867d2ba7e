"""A stage in several processes: one log, errors of one line, and all end together; then the command."""

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import distributed

from pipelines import FOLDERS
from pipelines.config import RunConfig
from pipelines.executors import cores
from pipelines.processes import run_in_processes
from recsys.artifacts import RunDirectory, StageRun
from recsys.errors import ConfigError, ModelError
from recsys.tracking import NullTracker, Tracker
from recsys.training.processes import Processes
from tests.pipelines.short import start
from tests.pipelines.test_kill_resume import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STILL = [f"finetune.{key}=0" for key in ("scratch.dropout", "lora.dropout", "item_dropout")]


def reports(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    own = Processes.launched()
    for step in tracker.track(range(3), "steps"):
        tracker.log({"rank": own.rank, "sum": own.sum_values({"rank": own.rank})["rank"]}, step=step)
    run.note(count=own.count)


def fails(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    if Processes.launched().rank == 1:
        raise ConfigError("the second process cannot go on")
    distributed.barrier()


def dies(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    if Processes.launched().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


class Recorder(NullTracker):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.events.append((step, dict(values)))

    def track(self, iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
        self.events.append((description, total))
        return iterable


@pytest.fixture
def stage_run(tmp_path: Path) -> StageRun:
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    return StageRun("finetune", out, work, RunDirectory(tmp_path / "run", FOLDERS), ())


def test_the_first_process_alone_reports_and_its_notes_are_kept(
    stage_run: StageRun, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Recorder()
    with caplog.at_level("INFO"):
        run_in_processes(reports, 2, RunConfig(), stage_run, tracker)
    assert tracker.events == [("steps", 3), *((step, {"rank": 0, "sum": 1}) for step in range(3))]
    assert stage_run.notes == {"count": 2}
    assert [line.strip() for line in caplog.messages] == ["count 2"]
    assert list(stage_run.work.iterdir()) == []


def test_an_error_of_one_process_ends_all(stage_run: StageRun, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="the second process cannot go on"):
        run_in_processes(fails, 2, RunConfig(), stage_run, NullTracker())
    assert active_children() == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_process_ends_all(stage_run: StageRun) -> None:
    with pytest.raises(ModelError, match="finetune: process 2 of 2 was killed by SIGKILL; run the same command"):
        run_in_processes(dies, 2, RunConfig(), stage_run, NullTracker())
    assert active_children() == []


@pytest.mark.skipif(cores() < 2, reason="more processes than cores are refused")
def test_a_run_in_two_processes_is_interrupted_killed_and_resumed_and_ends_as_one_of_one_process(
    tmp_path: Path,
) -> None:
    two, one, log = tmp_path / "two", tmp_path / "one", tmp_path / "log"
    options = [part for setting in STILL for part in ("--set", setting)]
    assert start(two, log, *options, "--to", "instruct").wait() == 0, log.read_text()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start(two, log, *options, "--to", "finetune", "--processes", "2")
        assert wait_for(two, process, "05_language_model", 0.0), log.read_text()
        found = children_of(process.pid, 2)
        process.send_signal(number)
        assert process.wait() in (130, -number)
        assert psutil.wait_procs(found, timeout=60)[1] == [], "no process is left behind"
    assert log.read_text().splitlines().count("interrupted; run the same command to resume") == 1
    assert start(two, log, *options, "--to", "finetune", "--processes", "2").wait() == 0, log.read_text()
    assert start(one, log, *options, "--to", "finetune").wait() == 0, log.read_text()
    shared, alone = (losses(run) for run in (two, one))
    assert shared.keys() == alone.keys()
    assert [shared[step] for step in shared] == pytest.approx([alone[step] for step in shared], rel=1e-3)
    notes = json.loads((two / "05_language_model" / "stage.json").read_text())["notes"]
    assert "ndcg@10_after_lora" in notes


def children_of(pid: int, count: int) -> list[psutil.Process]:
    """The processes that a run has started, once they are so many."""
    while True:
        found = psutil.Process(pid).children(recursive=True)
        if len(found) >= count:
            time.sleep(4)  # some are still loading, others train
            return found
        time.sleep(0.05)


def losses(run: Path) -> dict[tuple[str, int], float]:
    lines = (run / "05_language_model" / "training_log.jsonl").read_text().splitlines()
    return {
        (name, entry["step"]): entry[name]
        for line in lines
        for entry in [json.loads(line)]
        for name in entry
        if "loss" in name
    }
