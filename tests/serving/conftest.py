"""Fixtures that engine tests share."""

import pytest

from serving.parts import Parts
from tests.serving.trained import train


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A trained engine's parts; an engine that is changed needs an index of its own."""
    return train(tmp_path_factory.mktemp("engine"))
