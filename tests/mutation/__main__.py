"""`make mutate`: how many of a random sample of mutants do the tests find?

Works on a copy of the working tree in a temporary folder. A mutant is tried by the tests that can see it: those that
import its module, and those of the folder that mirrors its package. Results are kept in `build/mutation.jsonl`, so that
a run that was stopped goes on; a survivor is tried again once its tests have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.mutation.trial import ROOT, copy_tree, run_tests, visible_tests

KEPT = ROOT / "build/mutation.jsonl"
PATHS = [f"recsys/{name}" for name in ("tokenization", "llm", "diffusion", "ranking", "evaluation")]
APPEARANCE = {"plots.py"}  # looks are not pinned by tests
HEAVY = ("torch", "transformers", "accelerate", "peft", "polars", "sklearn", "faiss")
PASSED = {"0", "5"}  # 5: there are no tests


class Bench:
    """Tries mutants on a copy of the tree; keeps and takes up results."""

    def __init__(self, folder: Path, *, timeout: float) -> None:
        self.tree, self._log, self._timeout = folder / "tree", folder / "log", timeout
        copy_tree(self.tree)
        self._passing, self.left_out = set[str](), set[str]()
        KEPT.parent.mkdir(exist_ok=True)
        lines = KEPT.read_text("utf-8").splitlines() if KEPT.exists() else []
        self._kept: dict[str, dict[str, Any]] = {entry["key"]: entry for entry in map(json.loads, lines)}

    def outcome(self, path: str, code: str) -> dict[str, Any]:
        tests = visible_tests(path, self.tree)
        state = hashlib.sha256(b"".join((self.tree / test).read_bytes() for test in tests)).hexdigest()
        key = hashlib.sha256(f"{path}\0{code}".encode()).hexdigest()
        entry = self._kept.get(key)
        if entry is None or (entry["outcome"] in PASSED and entry["tests"] != state):
            self._try_without_mutant(tests)
            start, original = time.monotonic(), (self.tree / path).read_text("utf-8")
            (self.tree / path).write_text(code, "utf-8")
            outcome = self._run([test for test in tests if test not in self.left_out])
            (self.tree / path).write_text(original, "utf-8")
            entry = {"key": key, "tests": state, "outcome": outcome, "seconds": round(time.monotonic() - start, 1)}
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        return entry

    def _try_without_mutant(self, tests: list[str]) -> None:
        """Leaves out files that fail as the code is: nothing would follow from their failing."""
        fresh = [test for test in tests if test not in self._passing | self.left_out]
        if fresh and self._run(fresh) not in PASSED:
            self.left_out |= {test for test in fresh if self._run([test]) not in PASSED}
            print(f"left out, they fail without a mutant: {', '.join(sorted(self.left_out))}", flush=True)
        self._passing |= set(fresh) - self.left_out

    def _run(self, tests: list[str]) -> str:
        return run_tests(self.tree, tests, timeout=self._timeout, log=self._log) if tests else "5"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="*", default=PATHS)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=900, help="seconds a mutant")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a mutant is as new and as long as the file it replaces
    for heavy in HEAVY:
        __import__(heavy)
    from tests.mutation.mutants import count, mutant

    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        bench = Bench(Path(folder), timeout=options.timeout)
        files = [file for path in options.paths for file in [bench.tree / path, *(bench.tree / path).rglob("*.py")]]
        sources = {f.relative_to(bench.tree).as_posix(): f.read_text("utf-8") for f in sorted(files) if f.is_file()}
        population = [
            (p, n) for p, code in sources.items() if Path(p).name not in APPEARANCE for n in range(count(code))
        ]
        results: list[dict[str, Any]] = []
        for path, number in random.Random(options.seed).sample(population, len(population)):
            if len(results) == options.sample:
                break
            made = mutant(sources[path], number)
            if made is not None:
                entry = bench.outcome(path, made.code) | {"place": f"{path}:{made.line}", "diff": made.diff}
                results.append(entry)
                verdict = "SURVIVED" if entry["outcome"] in PASSED else "killed"
                print(f"{len(results):4} {verdict:8} {entry['seconds']:6}s {entry['place']}", flush=True)
    survivors = [entry for entry in results if entry["outcome"] in PASSED]
    for entry in survivors:
        print(f"\n{entry['place']}\n{entry['diff']}")
    figures: dict[str, Any] = {"left_out": sorted(bench.left_out)}
    figures |= {
        "sample": len(results),
        "seed": options.seed,
        "population": len(population),
        "survivors": len(survivors),
    }
    figures["score"] = round(1 - len(survivors) / max(1, len(results)), 4)
    figures["seconds_a_mutant"] = round(sum(entry["seconds"] for entry in results) / max(1, len(results)), 1)
    print("\n" + json.dumps(figures | {"survived": [entry["place"] for entry in survivors]}))


if __name__ == "__main__":
    main()
