"""Claims: an answer in under 50 ms for one client; at five times capacity at least 70 % of the peak goodput, ahead of a
plain FastAPI route with a queue and of LitServe; flat memory.

`python -m tests.benchmarks.serving BUNDLE [--seconds S] [--soak SECONDS] [--servers NAME ...]` prints one JSON line a
measurement. Each server has the last core to itself (one thread), the load generator the first. Goodput counts answers
within the deadline of one second; arrivals at a rate come by a Poisson process, latency counts from when they were due.
`retrying` are 400 clients that ask again at once, also when they were refused. One client is also measured with the
server on all cores. A soak asks at a given rate and watches the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from tests.benchmarks.common import emit
from tests.benchmarks.load import Counted, at_rate, closed, post

DEADLINE, CLIENTS, RETRYING = 1.0, (1, 8, 32, 128), 400
MEBIBYTE = 1 << 20


def requests_of(bundle: Path, count: int = 500) -> list[bytes]:
    """Histories of 1 to 20 items, the popular ones more often."""
    counts = pl.read_parquet(bundle / "counts.parquet")
    items, weights = counts["item_id"].to_list(), (counts["interactions"] + 1).to_list()
    chooser = random.Random(0)
    return [
        post("/v1/recommend", {"history": chooser.choices(items, weights, k=chooser.randint(1, 20)), "k": 10})
        for _ in range(count)
    ]


@contextmanager
def server(name: str, bundle: Path, *, port: int, cores: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, pinned to cores, with a thread for each."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(len(cores)),
            "OMP_WAIT_POLICY": "PASSIVE",
            "BENCH_STORE": f"{folder}/histories.sqlite",
        }
        line = [sys.executable, "-m", "tests.benchmarks.serving_servers", name, str(bundle), str(port)]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(
                line,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
                start_new_session=True,
            )
        try:
            _wait(port, process, Path(folder, "log"))
            yield process
        finally:
            _stop(process)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not get ready")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run(["pkill", "-KILL", "-g", str(process.pid)], check=False)


def _say(name: str, what: str, found: Counted, **more: float) -> None:
    emit("serving", f"{name} {what}", **more, **found.figures(DEADLINE))


def measure(name: str, bundle: Path, requests: Sequence[bytes], *, port: int, seconds: float, cores: set[int]) -> None:
    """Closed loops, then five times the capacity, then clients that retry at once.

    The capacity is the most answers of full tier a second, so that it means the same for all servers.
    """
    with server(name, bundle, port=port, cores=cores):
        asyncio.run(closed(port, requests, clients=4, seconds=2))
        peak = 0.0
        for clients in CLIENTS:
            found = asyncio.run(closed(port, requests, clients=clients, seconds=seconds))
            _say(name, f"{clients} clients", found)
            peak = max(peak, found.within(DEADLINE, "full"))
        found = asyncio.run(at_rate(port, requests, rate=5 * peak, seconds=2 * seconds))
        _say(name, "at 5 times capacity", found, rate=5 * peak, capacity=peak, kept=found.within(DEADLINE) / peak)
    with server(name, bundle, port=port + 1, cores=cores):
        asyncio.run(closed(port + 1, requests, clients=4, seconds=2))
        found = asyncio.run(closed(port + 1, requests, clients=RETRYING, seconds=seconds))
        _say(name, f"{RETRYING} clients retrying at once", found, capacity=peak, kept=found.within(DEADLINE) / peak)


def alone(bundle: Path, requests: Sequence[bytes], *, port: int, seconds: float) -> None:
    """One client, the server on all cores."""
    with server("ours", bundle, port=port, cores=set(range(os.cpu_count() or 1))):
        asyncio.run(closed(port, requests, clients=1, seconds=2))
        _say("ours", "1 client, all cores", asyncio.run(closed(port, requests, clients=1, seconds=seconds)))


def soak(bundle: Path, requests: Sequence[bytes], *, port: int, seconds: float, rate: float, cores: set[int]) -> None:
    """Resident memory over a long load, reported every tenth of it."""
    with server("ours", bundle, port=port, cores=cores) as process:
        asyncio.run(closed(port, requests, clients=8, seconds=20))
        sizes = [_resident(process.pid)]
        total = Counted()
        for part in range(10):
            found = asyncio.run(at_rate(port, requests, rate=rate, seconds=seconds / 10, seed=part))
            total.codes += found.codes
            sizes.append(_resident(process.pid))
            emit("serving", f"soak {part + 1}/10", resident_mib=sizes[-1] / MEBIBYTE, goodput=found.within(DEADLINE))
        growth = (sizes[-1] - sizes[len(sizes) // 2]) / MEBIBYTE
        codes = " ".join(f"{code}:{count}" for code, count in sorted(total.codes.items()) if count)
        emit("serving", "soak", seconds=seconds, rate=rate, growth_in_second_half_mib=growth, codes=codes)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10, help="of one measurement")
    parser.add_argument("--servers", nargs="*", default=["ours", "fastapi", "litserve"])
    parser.add_argument("--soak", type=float, default=0, help="seconds; 3600 is an hour")
    parser.add_argument("--soak-rate", type=float, default=20)
    parser.add_argument("--port", type=int, default=18100)
    arguments = parser.parse_args()
    requests = requests_of(arguments.bundle)
    everything = sorted(os.sched_getaffinity(0))
    alone_port = arguments.port + 50
    if "ours" in arguments.servers:
        alone(arguments.bundle, requests, port=alone_port, seconds=arguments.seconds)
    os.sched_setaffinity(0, {everything[0]})
    for number, name in enumerate(arguments.servers):
        measure(
            name,
            arguments.bundle,
            requests,
            port=arguments.port + 10 * number,
            seconds=arguments.seconds,
            cores={everything[-1]},
        )
    if arguments.soak:
        soak(
            arguments.bundle,
            requests,
            port=arguments.port + 60,
            seconds=arguments.soak,
            rate=arguments.soak_rate,
            cores={everything[-1]},
        )


if __name__ == "__main__":
    main()
