"""The trained circle, which the tests of rankers share."""

import pytest

from tests.ranking.trained import Trained, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Not changed by any test."""
    return train(tmp_path_factory.mktemp("circle"))
