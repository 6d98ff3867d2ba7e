"""Two processes under torchrun train one model: equal weights in both, metrics from one, and the loss falls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


def test_two_processes_end_with_equal_weights(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.llm.distributed_worker", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses, silent = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert silent == [], "only the first process reports"
    assert losses[-1] < 0.8 * losses[0]
    assert list((tmp_path / "work").glob("*.safetensors"))
