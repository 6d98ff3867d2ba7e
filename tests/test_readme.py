"""The README's commands and code run as written, its tables are true, and its length and links are checked."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipelines import STAGES, cli
from pipelines.config import recipes

MAX_WORDS = 1200
PAGES = (
    "README.md",
    "docs/architecture.md",
    "docs/data.md",
    "docs/extending.md",
    "docs/results.md",
    "docs/scale.md",
    "docs/serving.md",
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


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


def test_it_is_short_and_names_every_recipe(text: str) -> None:
    assert len(text.split()) <= MAX_WORDS
    assert all(f"`{name}`" in text for name in recipes())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str, root: Path) -> None:
    links = LINK.findall((root / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (root / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_those_of_the_command_line(page: str, root: Path) -> None:
    group = typer.main.get_command(cli.app)
    for line in commands((root / page).read_text(encoding="utf-8")):
        _, *arguments = shlex.split(line, comments=True)
        context = group.make_context("recsys", arguments)
        name, command, rest = group.resolve_command(context, arguments)
        command.make_context(name, rest, parent=context)


def commands(text: str) -> list[str]:
    """The lines of code blocks that call the command line, continued ones as one."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^(?:    |[A-Z_]+=\S+ )*((?:\.venv/bin/)?recsys .*)$", joined, flags=re.MULTILINE)
    return [line for line in found if "..." not in line]


def test_every_folder_of_the_library_is_in_the_architecture_page(root: Path) -> None:
    (tree,) = re.findall(r"```\n(recsys/.*?)```", (root / "docs" / "architecture.md").read_text(), flags=re.DOTALL)
    names = {p.name for p in (root / "recsys").iterdir() if p.name[0].isalpha() and p.name != "__init__.py"}
    assert [name for name in sorted(names) if name not in tree] == []


@pytest.mark.slow
def test_the_python_quickstart_runs_as_written(text: str, checkout: Path, root: Path) -> None:
    (code,) = blocks(text, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 6


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
