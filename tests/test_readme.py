"""What the README tells a newcomer to type is what runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import STAGES
from pipelines.config import recipes


@pytest.fixture(scope="module")
def text(request: pytest.FixtureRequest) -> str:
    return (request.config.rootpath / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A folder with what the README's relative paths name."""
    shutil.copytree(root / "data" / "sample", tmp_path / "data" / "sample")
    return tmp_path


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_table_of_stages_is_the_flow(text: str) -> None:
    rows = re.search(r"<!-- stages:begin -->\n(.*?)<!-- stages:end -->", text, flags=re.DOTALL)
    assert rows is not None
    body = rows.group(1).splitlines()[2:]
    assert body == [f"| {stage.name} | `{stage.folder}` | {stage.help} |" for stage in STAGES]


def test_every_recipe_and_every_folder_of_the_library_is_named(text: str, root: Path) -> None:
    assert all(f"`{name}`" in text for name in recipes())
    (tree,) = re.findall(r"```\n(recsys/.*?)```", text, flags=re.DOTALL)
    names = {p.name for p in (root / "recsys").iterdir() if p.name[0].isalpha() and p.name != "__init__.py"}
    assert [name for name in sorted(names) if name not in tree] == []


def test_the_python_quickstart_runs_as_written(text: str, checkout: Path, root: Path) -> None:
    (code,) = blocks(text, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.slow
def test_the_commands_on_own_data_run_as_written(text: str, checkout: Path, root: Path) -> None:
    lines = [line for block in blocks(text, "bash") for line in block.splitlines() if "runs/sample" in line]
    assert len(lines) == 3
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == ".venv/bin/recsys"
        done = subprocess.run(
            [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert (checkout / "runs" / "sample" / "09_report" / "report.html").exists()
    assert "rank" in done.stdout + done.stderr
