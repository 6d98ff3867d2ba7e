"""Fixtures that more than one test folder uses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.artifacts import RunDirectory, StageKey

ROOT = Path(__file__).parent.parent


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
