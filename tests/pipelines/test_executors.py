"""The contract of executors: order, equal results, no repeated work, and nothing lost after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import STAGE_NAMES, Stage
from pipelines.config import RunConfig
from pipelines.executors import Executor, LocalExecutor, RayExecutor, choose_executor
from pipelines.partitions import Partition, Shared
from pipelines.runner import NOT_DISTRIBUTED, StageFunction, run_stages
from recsys.artifacts import RunDirectory, StageRun
from recsys.errors import ConfigError, DataError, DependencyError
from recsys.tracking import NullTracker, Tracker

ROOT = Path(__file__).parent.parent.parent
EXECUTORS = [
    pytest.param(("local", 1), id="local1"),
    pytest.param(("local", 2), id="local2"),
    pytest.param(("ray", 2), id="ray2", marks=pytest.mark.slow),
]


def square(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    """Squares the partition's numbers, leaves a trace of having run, and does what its `order` says first."""
    traces = Path(shared.params["traces"])
    number = partition.params["numbers"][0]
    trace = traces / f"{number}.{os.getpid()}.{time.monotonic_ns()}"
    trace.touch()
    order = shared.params["orders"].get(str(number))
    if order == "die once" and len(list(traces.glob(f"{number}.*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "fail":
        raise DataError("seven is not allowed")
    if order == "mistake":
        raise KeyError("no such number")
    while order == "wait" and not (traces / "go").exists():
        time.sleep(0.01)
    squares = np.square(np.array(partition.params["numbers"], dtype=np.float32) / 3)
    np.save(out / "squares.npy", squares)
    (out / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))


PARTITIONS = [
    Partition(f"numbers {n}-{n + 2}", f"content {n}", {"numbers": [n, n + 1, n + 2]}) for n in range(0, 18, 3)
]
EXPECTED = [float(np.float32(n) / np.float32(3)) ** 2 for n in range(18)]


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Executor:
    kind, workers = request.param
    if kind == "ray":
        request.getfixturevalue("cluster")
    return choose_executor(kind, workers)


class Work:
    """A folder to map in."""

    def __init__(self, folder: Path) -> None:
        self.traces, self.out = folder / "traces", folder / "out"
        self.traces.mkdir(exist_ok=True)

    def map(self, executor: Executor, orders: dict[int, str] | None = None) -> list[Path]:
        params = {"traces": str(self.traces), "orders": {str(n): order for n, order in (orders or {}).items()}}
        return executor.map_partitions(
            square, PARTITIONS, shared=Shared(params, "params"), out=self.out, tracker=NullTracker()
        )

    def runs(self) -> dict[int, int]:
        """How often each partition was begun."""
        return {n: len(list(self.traces.glob(f"{n}.*"))) for n in range(0, 18, 3)}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def union(folders: list[Path]) -> list[float]:
    found: list[float] = np.concatenate([np.load(folder / "squares.npy") for folder in folders]).tolist()
    return found


def whole(work: Work, folders: list[Path]) -> bool:
    """Every number once, in order, and nothing beside what was asked for."""
    assert sorted(work.out.iterdir()) == sorted(folders)
    return union(folders) == pytest.approx(EXPECTED)


def test_outputs_are_in_the_order_of_the_partitions(executor: Executor, work: Work) -> None:
    folders = work.map(executor)
    assert whole(work, folders)
    assert set(work.runs().values()) == {1}


def test_committed_partitions_are_not_computed_again(executor: Executor, work: Work) -> None:
    before = work.map(LocalExecutor(1))
    for folder in before[2:4]:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert work.map(executor) == before
    assert work.runs() == {0: 1, 3: 1, 6: 2, 9: 2, 12: 1, 15: 1}
    assert work.map(executor) == before
    assert sum(work.runs().values()) == 8


def test_all_executors_give_the_same_bytes(executor: Executor, work: Work, tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    reference = Work(tmp_path / "reference").map(LocalExecutor(1))
    folders = work.map(executor)
    assert [f.name for f in folders] == [f.name for f in reference]
    for mine, theirs in zip(folders, reference, strict=True):
        assert (mine / "squares.npy").read_bytes() == (theirs / "squares.npy").read_bytes()


@pytest.mark.parametrize(
    ("order", "error"), [("fail", DataError), pytest.param("mistake", KeyError, marks=pytest.mark.slow)]
)
def test_an_error_names_its_partition_and_keeps_committed_ones(
    executor: Executor, work: Work, order: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        work.map(executor, {6: order})
    message = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "partition numbers 6-8" in message
    folders = work.map(executor)
    assert whole(work, folders)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_on_ray_an_error_waits_for_running_partitions(tmp_path: Path) -> None:
    """Many times: tasks that are cancelled as they end take the driver with them."""
    for attempt in range(20):
        (tmp_path / str(attempt)).mkdir()
        work = Work(tmp_path / str(attempt))
        with pytest.raises(DataError):
            work.map(RayExecutor(2), {6: "fail"})
        begun = [n for n, times in work.runs().items() if times]
        assert len(committed(work)) == len(begun) - 1
        assert whole(work, work.map(RayExecutor(2)))
        assert work.runs() == {n: 2 if n == 6 else 1 for n in range(0, 18, 3)}


def test_a_worker_that_is_killed_is_replaced(executor: Executor, work: Work) -> None:
    if not executor.distributed:
        pytest.skip("one local worker is the driver itself")
    assert whole(work, work.map(executor, {6: "die once", 15: "die once"}))
    assert work.runs()[6] >= 2


@pytest.mark.slow
def test_workers_that_keep_dying_stop_the_run(executor: Executor, work: Work) -> None:
    if not executor.distributed:
        pytest.skip("one local worker is the driver itself")
    with pytest.raises(ConfigError, match=r"numbers \d+-\d+: its worker died 4 times.*fewer workers than 2"):
        work.map(executor, {6: "die"})
    assert whole(work, work.map(executor))


def test_several_workers_share_the_cores(executor: Executor, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert {(folder / "threads").read_text() for folder in work.map(executor)} == {"3"}


DRIVER = """
import sys, json
from pathlib import Path
from pipelines.executors import choose_executor
from tests.pipelines.test_executors import Work
kind, workers, folder, orders = sys.argv[1:]
if __name__ == "__main__":
    Work(Path(folder)).map(choose_executor(kind, int(workers)), {int(n): o for n, o in json.loads(orders).items()})
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXECUTORS)
def test_a_killed_driver_loses_and_duplicates_nothing(kind: tuple[str, int], work: Work, tmp_path: Path) -> None:
    """The third partition waits for a sign that never comes, and the driver dies while it waits."""
    if kind[0] == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    line = [sys.executable, str(script), kind[0], str(kind[1]), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([*line, json.dumps({6: "wait"})], env=environment)
    wanted = 2 if kind[1] == 1 else 5
    while len(committed(work)) < wanted or work.runs()[6] == 0:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    waiting = [int(path.name.split(".")[1]) for path in work.traces.glob("6.*")]
    while any(Path(f"/proc/{worker}").exists() and alive(worker) for worker in waiting):
        time.sleep(0.02)
    kept = committed(work)
    assert subprocess.run([*line, "{}"], env=environment, check=False).returncode == 0
    assert whole(work, work.map(LocalExecutor(1))), "nothing was left to do"
    runs = work.runs()
    assert runs[6] == 2
    assert sum(runs.values()) == 7
    assert set(kept) < set(committed(work))


def committed(work: Work) -> list[str]:
    return [path.name for path in work.out.glob("[!.]*")]


def alive(process: int) -> bool:
    """Whether a process runs; a zombie counts as dead."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_choosing_an_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not choose_executor("local").distributed
    assert choose_executor("local", 3).workers == 3
    with pytest.raises(ConfigError, match="workers: got 0"):
        choose_executor("local", 0)
    with pytest.raises(ConfigError, match="allowed: local, ray"):
        choose_executor("spark")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"recsys\[ray\]"):
        choose_executor("ray", 2)
    with pytest.raises(DependencyError):
        RayExecutor(2)


def test_a_stage_gets_the_executor_or_logs_why_not(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    given: list[Executor] = []

    def make(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        (run.out / "text").write_text("made")

    def use(config: RunConfig, run: StageRun, tracker: Tracker, *, executor: Executor) -> None:
        given.append(executor)

    code: dict[str, StageFunction] = {"make": make, "use": use}  # type: ignore[dict-item]
    stages = [Stage(name, f"0{n}_{name}", (), 1, (), "Do it.") for n, name in enumerate(code, start=1)]
    chosen = LocalExecutor(2)
    with caplog.at_level("INFO"), directory.lock():
        run_stages(
            RunConfig(),
            directory,
            stages,
            selected=list(code),
            tracker=NullTracker(),
            executor=chosen,
            load=lambda stage: code[stage.name],
        )
    assert given == [chosen]
    assert [line for line in caplog.messages if "not distributed" in line] == [
        "      not distributed over 2 workers: it is one task"
    ]


def test_every_stage_is_distributed_or_has_a_reason() -> None:
    assert set(STAGE_NAMES) - set(NOT_DISTRIBUTED) == {"recommend"}
