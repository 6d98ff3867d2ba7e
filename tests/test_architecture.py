"""The rules of the layout, read from the syntax tree: who may import whom, the exception tree, the public surface."""

import ast
import inspect
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import recsys
from pipelines import STAGES, Stage
from pipelines.config import RunConfig
from recsys import errors

ROOT = Path(__file__).parent.parent
PACKAGES = ("recsys", "pipelines", "serving", "configs")
MAY_IMPORT = {
    "recsys": {"recsys"},
    "pipelines": {"pipelines", "recsys", "configs"},
    "serving": {"serving", "recsys"},
    "configs": set[str](),
}
MAY_SERVE = {"pipelines.serving_commands", "pipelines.bundling"}
FIRST = {"errors", "config", "files", "metrics", "tables", "artifacts", "tracking", "cluster"}
ORDER = (
    "training",
    "data",
    "baselines",
    "embeddings",
    "tokenization",
    "instructions",
    "llm",
    "decoding",
    "diffusion",
    "retrieval",
    "ranking",
)


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and path of every module of a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


EVERY = {name: path for package in PACKAGES for name, path in modules(package)}


def imports(name: str) -> set[str]:
    """Our own modules that a module imports, wherever in its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(EVERY[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the full name"
            base = node.module or ""
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {full if full in EVERY else base for full in inner}
    return {target for target in found if target.split(".")[0] in PACKAGES}


def part(name: str) -> str:
    """`recsys.llm.training` -> `llm`."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", EVERY)
def test_packages_import_in_one_direction(name: str) -> None:
    package = name.split(".")[0]
    allowed = MAY_IMPORT[package] | ({"serving"} if name in MAY_SERVE else set())
    assert {target.split(".")[0] for target in imports(name)} <= allowed


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("recsys.")])
def test_parts_of_the_library_import_only_earlier_ones(name: str) -> None:
    own = part(name)
    targets = {part(target) for target in imports(name)} - {own, ""}
    if own in FIRST:
        assert targets <= FIRST
    elif own == "evaluation":
        assert targets <= FIRST | {"data"}
    else:
        assert targets <= FIRST | set(ORDER[: ORDER.index(own)])


def test_no_import_cycle() -> None:
    order = list(TopologicalSorter({name: imports(name) - {name} for name in EVERY}).static_order())
    assert set(EVERY) <= set(order)


def test_mlflow_is_imported_in_two_places_only() -> None:
    users = {
        name
        for name, path in EVERY.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "mlflow" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlflow")
    }
    assert users <= {"recsys.tracking", "serving.release.registry"}


@pytest.mark.parametrize("name", [name for name, path in EVERY.items() if path.stat().st_size])
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(EVERY[name].read_text(encoding="utf-8")))


def settings_used(tree: ast.AST) -> set[str]:
    """`config.prepare.max_history` in the code -> `prepare.max_history`, each as deep as the code goes."""
    chains = set()
    for node in ast.walk(tree):
        names: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if names and isinstance(inner, ast.Name) and inner.id == "config":
            chains.add(".".join(names))
    return {chain for chain in chains if not any(other.startswith(f"{chain}.") for other in chains)}


@pytest.mark.parametrize("stage", [s for s in STAGES if f"pipelines.{s.name}" in EVERY], ids=lambda s: s.name)
def test_a_stage_looks_only_at_the_settings_and_folders_it_declares(stage: Stage) -> None:
    text = EVERY[f"pipelines.{stage.name}"].read_text(encoding="utf-8")
    tree = ast.parse(text)
    read = {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("read", "record")
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    for key in (key for key in settings_used(tree) if key.split(".")[0] in RunConfig.model_fields):
        assert any(f"{key}.".startswith(f"{setting}.") for setting in ("seed", *stage.settings)), key
    assert read <= set(stage.reads)
    assert read == set(stage.reads) or "run.reads" in text


def test_the_exception_tree_is_the_one_drawn() -> None:
    def draw(cls: type) -> Iterator[str]:
        yield cls.__name__
        children = [c for c in vars(errors).values() if inspect.isclass(c) and c.__base__ is cls]
        for number, child in enumerate(children, start=1):
            last = number == len(children)
            head, *rest = draw(child)
            yield f"{'└── ' if last else '├── '}{head}"
            yield from (f"{'    ' if last else '│   '}{line}" for line in rest)

    drawn = inspect.getdoc(errors)
    assert drawn is not None
    lines = [line for line in drawn.splitlines() if line.startswith(("RecsysError", "├", "└", "│"))]
    assert [line.split("  ")[0].rstrip() for line in lines] == list(draw(errors.RecsysError))


def test_the_public_surface_is_small_and_there() -> None:
    surface = getattr(recsys, "__all__", [])
    assert len(surface) <= 15
    assert all(hasattr(recsys, name) for name in surface)
