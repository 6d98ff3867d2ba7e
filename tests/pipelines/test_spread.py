"""A run with parallel ranking: every executor writes the same rows, also after a kill."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import polars as pl
import pytest
import torch

from pipelines import FOLDERS, recommend
from pipelines.config import load_config
from pipelines.executors import THREADS, Executor, LocalExecutor, choose_executor
from pipelines.runner import run_stages
from recsys.artifacts import RunDirectory
from recsys.tracking import NullTracker
from tests.pipelines.short import start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
SPREAD = [pytest.param(("local", 2), id="local2"), pytest.param(("ray", 2), id="ray2")]


def rank(path: Path, executor: Executor, *, users: int = 32) -> Path:
    """Run the recommend stage in partitions of so many users; returns what it ranked."""
    directory = RunDirectory(path, FOLDERS)
    config = load_config(str(path / "config.yaml"))
    with pytest.MonkeyPatch.context() as patch, directory.lock():
        patch.setattr(recommend, "USERS", users)
        run_stages(config, directory, config.stages, selected=["recommend"], tracker=NullTracker(), executor=executor)
    return directory.folder("recommend") / "rankings.parquet"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Here and in workers: sums of floats round differently with another number of threads."""
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(THREADS, "1")
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        yield
    torch.set_num_threads(torch_threads)
    faiss.omp_set_num_threads(faiss_threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run up to its index."""
    folder = tmp_path_factory.mktemp("trained")
    assert start(folder / "run", folder / "log", "--to", "index").wait() == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture(params=SPREAD)
def executor(request: pytest.FixtureRequest) -> Executor:
    kind, workers = request.param
    if kind == "ray":
        request.getfixturevalue("cluster")
    return choose_executor(kind, workers)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(trained, tmp_path / name))


def test_every_executor_writes_the_same_rows(executor: Executor, copied: Callable[[str], Path]) -> None:
    here, spread = rank(copied("here"), LocalExecutor(1)), rank(copied("spread"), executor)
    assert spread.read_bytes() == here.read_bytes()
    frame = pl.read_parquet(spread)
    assert frame.select("policy", "source", "user_id", "rank").n_unique() == len(frame), "no user is ranked twice"
    assert frame.group_by("source").agg(pl.col("user_id").n_unique())["user_id"].unique().to_list() == [150]


def test_the_size_of_partitions_changes_no_item(copied: Callable[[str], Path]) -> None:
    """Scores may differ in their last bits, which is why the cut is fixed."""
    few, many = (pl.read_parquet(rank(copied(str(n)), LocalExecutor(1), users=n)) for n in (32, 4096))
    assert few.drop("score").equals(many.drop("score"))
    assert (few["score"] - many["score"]).abs().max() == pytest.approx(0, abs=1e-4)


DRIVER = """
import sys
from pathlib import Path
from pipelines.executors import choose_executor
from tests.pipelines.test_spread import rank
if __name__ == "__main__":
    rank(Path(sys.argv[1]), choose_executor("local", 2))
"""


def test_a_killed_driver_changes_nothing(copied: Callable[[str], Path], tmp_path: Path) -> None:
    run, script = copied("killed"), tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # all of it: some variables choose how floats are summed
    driver = subprocess.Popen([sys.executable, str(script), str(run)], env=environment)
    ranked = run / ".work" / FOLDERS["recommend"] / "ranked"
    while not list(ranked.glob("[!.]*")):
        assert driver.poll() is None
        time.sleep(0.005)
    driver.kill()
    driver.wait()
    assert not (run / FOLDERS["recommend"]).exists()
    assert rank(run, LocalExecutor(1)).read_bytes() == rank(copied("whole"), LocalExecutor(1)).read_bytes()
