"""The wheel, installed in an empty environment, lists the recipes and runs every stage, from another folder."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from pipelines import STAGES
from tests.pipelines.short import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def call(*arguments: str | Path) -> str:
    """Run a command from the root of the file system; its words become part of the failure."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_wheel_runs_from_anywhere(root: Path, tmp_path: Path) -> None:
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path / "dist", root)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt", f"{wheel}[cpu]")

    listed = call(tmp_path / "venv" / "bin" / "recsys", "configs")
    assert all(f"--config {name}" in listed for name in ("demo", "beauty", "toys", "ml-1m"))
    shown = call(*command(tmp_path / "run", python=str(python)))
    assert "generative" in shown
    assert [s.folder for s in STAGES] == sorted(p.name for p in (tmp_path / "run").iterdir() if p.name[0].isdigit())
