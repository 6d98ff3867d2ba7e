"""20 million interactions are prepared in under 90 seconds and 3 GB on two cores.

`python -m tests.benchmarks.prepare --rows 20000000` generates data in a temporary folder and prints one JSON line a
measurement; the import runs in its own process, whose peak memory is reported.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.config import PrepareConfig
from recsys.data.dataset import import_dataset
from recsys.data.raw import Rejects
from tests.benchmarks.common import emit

ROWS_A_USER, ROWS_AN_ITEM = 40, 200


def write_data(folder: Path, rows: int, suffix: str) -> None:
    """Interactions in random order with a power law over items; ids look like those of Amazon's reviews."""
    rng = np.random.default_rng(0)
    items = (rng.random(rows) ** 3 * max(1, rows // ROWS_AN_ITEM)).astype(np.int64)
    columns = {
        "user_id": rng.integers(0, max(1, rows // ROWS_A_USER), rows),
        "item_id": items,
        "timestamp": rng.integers(1_000_000_000, 1_500_000_000, rows),
    }
    frame = pl.DataFrame(columns).lazy()
    frame = frame.with_columns(
        user_id="A3U" + pl.col("user_id").cast(pl.String).str.zfill(9),
        item_id="B" + pl.col("item_id").cast(pl.String).str.zfill(9),
    )
    path = folder / f"interactions{suffix}"
    if suffix == ".csv":
        frame.sink_csv(path)
    else:
        frame.sink_parquet(path)


def measure(source: Path, out: Path) -> None:
    """Import, save and report."""
    started, spent = time.perf_counter(), time.process_time()
    dataset = import_dataset(PrepareConfig(source=str(source)), seed=0, work=out, rejects=Rejects(100))
    dataset.save(out)
    emit(
        "prepare",
        source.name,
        rows=dataset.card["rows"],
        kept=len(dataset.interactions),
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - spent,
        peak_rss_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--measure", type=Path, help="import this folder here and now")
    arguments = parser.parse_args()
    if arguments.measure:
        with tempfile.TemporaryDirectory() as out:
            measure(arguments.measure, Path(out))
        return
    for suffix in (".parquet", ".csv"):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / suffix[1:]
            source.mkdir()
            write_data(source, arguments.rows, suffix)
            command = [sys.executable, "-m", "tests.benchmarks.prepare", "--measure", str(source)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
