"""Fixtures that more than one test folder uses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.artifacts import RunDirectory, StageKey

ROOT = Path(__file__).parent.parent


# Of a folder, all tests with one of these fixtures run in one process, which then trains its models once.
SHARED = ("parts", "run", "trained")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Say which tests `pytest --dist loadgroup` keeps together: those of a file, or of a shared fixture."""
    for item in items:
        shared = [name for name in SHARED if name in item.fixturenames]
        item.add_marker(pytest.mark.xdist_group(f"{item.path.parent} {(*shared, item.path.name)[0]}"))


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """An empty run directory of two stages, `make` and `use`."""
    return RunDirectory(tmp_path / "run", {"make": "01_make", "use": "02_use"})


@pytest.fixture
def key() -> Callable[..., StageKey]:
    """Builds the key of a stage from its settings."""

    def build(**settings: object) -> StageKey:
        return StageKey(settings=settings, code=1, inputs={})

    return build
