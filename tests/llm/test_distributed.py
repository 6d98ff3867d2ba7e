"""Two processes under torchrun train as one process on the same batches: losses, steps, validations and weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.llm.distributed_worker import main

pytestmark = pytest.mark.slow


def two_processes(root: Path, folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.llm.distributed_worker", str(folder), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500, check=False)


def one_process(folder: Path, *arguments: Any) -> None:
    folder.mkdir(exist_ok=True)
    main(folder, *arguments)


def found(folder: Path, rank: int = 0) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
    return read


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "out").rglob("*.safetensors"))
    return {f"{path.parent.name} {name}": tensor for path in files for name, tensor in load_file(path).items()}


def assert_like_one_process(folder: Path, alone: Path) -> None:
    mine, reference = found(folder), found(alone)
    assert [entry[:2] for entry in mine["metrics"]] == [entry[:2] for entry in reference["metrics"]]
    for (name, step, value), (*_, expected) in zip(mine["metrics"], reference["metrics"], strict=True):
        # Rounding grows along the two trainings, whose steps Adam makes as long for small gradients as for large ones.
        tolerance = 1e-4 if name.startswith("language_model") else 1e-3
        assert value == pytest.approx(expected, rel=tolerance, abs=tolerance), f"{name} at step {step}"
    trained = {name: tensor for name, tensor in weights(alone).items() if name.startswith("backbone")}
    assert trained
    for name, tensor in trained.items():
        torch.testing.assert_close(weights(folder)[name], tensor, atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize(("items", "accumulation"), [("sum", 1), ("tokens", 2)])
def test_two_processes_train_as_one(items: str, accumulation: int, root: Path, tmp_path: Path) -> None:
    done = two_processes(root, tmp_path / "two", items, accumulation)
    assert done.returncode == 0, done.stderr[-2000:]
    one_process(tmp_path / "one", items, accumulation)
    assert_like_one_process(tmp_path / "two", tmp_path / "one")
    losses = [value for name, _, value in found(tmp_path / "one")["metrics"] if name == "language_model/loss"]
    assert len(losses) > 1
    assert losses[-1] < losses[0]
    silent = found(tmp_path / "two", rank=1)
    assert (silent["metrics"], silent["validations"], silent["events"]) == ([], 0, 0), "only the first process reports"
    assert found(tmp_path / "two")["validations"] == found(tmp_path / "one")["validations"]


def test_a_killed_training_resumes_under_two_processes_and_under_one(root: Path, tmp_path: Path) -> None:
    whole = two_processes(root, tmp_path / "whole", "sum", 1)
    assert whole.returncode == 0, whole.stderr[-2000:]
    events = found(tmp_path / "whole")["events"]
    for name in ("two", "one"):
        killed = two_processes(root, tmp_path / name, "sum", 1, events * 2 // 3)
        assert killed.returncode != 0
        assert "KilledError" in killed.stderr
        assert not (tmp_path / name / "0.json").exists()
    resumed = two_processes(root, tmp_path / "two", "sum", 1)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "two").items())
    assert found(tmp_path / "two")["events"] < events, "it was really continued"
    one_process(tmp_path / "one", "sum", 1)
    assert found(tmp_path / "one")["events"] < events
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-3, rtol=1e-2, msg=name)
