"""One finished run for the whole battery, and copies of it whose held-out items are others."""

import pytest

from recsys.artifacts import RunDirectory
from recsys.tables import TEST, VALIDATION
from tests.leaks.battery import run_until_ranked, with_other_items


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Not changed by any test; nor are the others."""
    return run_until_ranked(tmp_path_factory.mktemp("leaks") / "run")


@pytest.fixture(scope="session")
def other_test(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return with_other_items(run, tmp_path_factory.mktemp("leaks") / "run", TEST)


@pytest.fixture(scope="session")
def other_validation(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Test items are others too: the validation items belong to the histories of the test."""
    return with_other_items(run, tmp_path_factory.mktemp("leaks") / "run", VALIDATION, TEST)
