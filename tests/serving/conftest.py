"""Fixtures that engine tests share."""

from pathlib import Path

import pytest

from serving.bundle.loading import LoadedBundle
from tests.serving.trained import train


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trained engine's models are; `parts` trains them."""
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="session")
def parts(models: Path) -> LoadedBundle:
    """A trained engine's parts; an engine that is changed needs an index of its own."""
    return train(models)
