"""One Ray cluster for the tests of executors; one finished run, and its bundle, for those that only read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from pipelines.bundling import bundle_run
from recsys.artifacts import RunDirectory
from recsys.cluster import ray_cluster
from serving.bundle.bundle import Bundle
from tests.pipelines.finished import configured, finished


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers' worth of Ray, as long as a module of tests lasts."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with ray_cluster(2):
        yield


@pytest.fixture(scope="session")
def run() -> Iterator[RunDirectory]:
    """All stages of the small run; not changed by any test."""
    with finished() as directory:
        yield directory


@pytest.fixture(scope="session")
def bundle(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of that run."""
    return bundle_run(run, configured(), tmp_path_factory.mktemp("bundles") / "b")


@pytest.fixture
def recsys(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line in this process; gives exit code, stdout and stderr, without progress."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        shown = [line for line in err.splitlines(keepends=True) if line.strip() and "Loading weights" not in line]
        return int(str(ended.value.code)), out, "".join(shown)

    return command
