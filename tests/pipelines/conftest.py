"""One Ray cluster for the tests of executors."""

from collections.abc import Iterator

import pytest

from recsys.cluster import ray_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers' worth of Ray, as long as a module of tests lasts."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with ray_cluster(2):
        yield
