"""What SECURITY.md promises of the code, read from the syntax tree, and of the files that deploy it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SOURCES = [path for package in ("recsys", "pipelines", "serving") for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "torch.load", "torch.save", "np.load", "np.save", "yaml.load", "os.system", "pd.read_pickle"}


def name_of(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def unsafe(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            if name_of(node.func) in CALLS:
                yield name_of(node.func)
            for keyword in node.keywords:
                allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and not allowed:
                    yield f"{keyword.arg} in {name_of(node.func)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    assert not list(unsafe(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
        "np.load(f, allow_pickle=flag)",
        "subprocess.run(line, shell=True)",
        "yaml.load(text)",
    ],
)
def test_the_search_finds_what_it_is_for(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_the_files_that_deploy_are_valid_and_name_what_exists() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert compose["services"].keys() == {"endpoint", "redis", "mlflow", "prometheus"}
    command = compose["services"]["endpoint"]["command"]
    assert command[:2] == ["recsys", "serve"]
    assert "--keys" in command, "beyond loopback the endpoint starts with keys only"
    scrape = yaml.safe_load((ROOT / "serving/deploy/prometheus.yml").read_text(encoding="utf-8"))
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == ["endpoint:8000"]
    copied = [
        word
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def test_every_version_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert pinned
    assert all("==" in line for line in pinned)
