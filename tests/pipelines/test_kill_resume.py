"""Real runs of a shortened demo, killed at random points in every stage, end like an uninterrupted one."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import STAGES
from tests.pipelines.short import start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TIMED = {"08_recommendations/timings.json", "09_report/report.html"}  # these report seconds


def artifacts(run: Path) -> dict[str, str]:
    """File -> sha256 of everything whose contents must not depend on how long it took."""
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    found = {f"{folder}/{name}": f["sha256"] for folder, stage in stages.items() for name, f in stage["files"].items()}
    return {name: digest for name, digest in found.items() if name not in TIMED}


def wait_for(run: Path, process: Any, folder: str, seconds: float) -> bool:
    """Wait until the stage of a folder has been running for some seconds; False if the run ended before."""
    while process.poll() is None:
        if (run / f".{folder}.partial").exists():
            time.sleep(seconds)
            return process.poll() is None
        time.sleep(0.005)
    return False


def finish(run: Path, log: Path) -> None:
    assert start(run, log).wait() == 0, log.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(folder / "run", folder / "log")
    return folder / "run"


def test_two_runs_are_equal(whole: Path, tmp_path: Path) -> None:
    finish(tmp_path / "run", tmp_path / "log")
    assert artifacts(tmp_path / "run") == artifacts(whole)


def test_kills_in_every_stage_change_nothing(whole: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    run, log = tmp_path / "run", tmp_path / "log"
    seconds = {record["stage"]: record["seconds"] for record in manifest(whole)["stages"].values()}
    killed = []
    for stage in STAGES:
        # A short stage may end before the kill; it is then run again, with the same result.
        for share in [*sorted(generator.uniform(0, 0.9, size=2)), *[0.0] * 6]:
            process = start(run, log, "--force", "--from", stage.name, "--to", stage.name)
            if wait_for(run, process, stage.folder, share * seconds[stage.name]):
                process.send_signal(signal.SIGKILL)
                killed.append(stage.name)
            process.wait()
            if killed.count(stage.name) >= 2 or (share == 0 and stage.name in killed):
                break
        assert stage.name in killed, "every stage meets a kill"
        assert start(run, log, "--to", stage.name).wait() == 0, log.read_text()
    finish(run, log)
    assert artifacts(run) == artifacts(whole)


def manifest(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return value
