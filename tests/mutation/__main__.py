"""`make mutate`: how many of a random sample of mutants do the tests find?

Works on a copy of the working tree in a temporary folder. A mutant is tried by the tests that can see it: those that
import its module, and those of the folder that mirrors its package. Results are kept in `build/mutation.jsonl`, so that
a run that was stopped goes on; a survivor is tried again once its tests have changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build/mutation.jsonl"
PATHS = [f"recsys/{name}" for name in ("tokenization", "llm", "diffusion", "ranking", "evaluation")]
APPEARANCE = {"plots.py"}  # looks are not pinned by tests
HEAVY = ("torch", "transformers", "accelerate", "peft", "polars", "sklearn", "faiss")
OPTIONS = ["-x", "-q", "--tb=line", "--assert=plain", "-p", "no:cacheprovider", "--timeout=120", "--hypothesis-seed=0"]
OPTIONS += ["-m", "not slow and not gpu and not browser"]
PASSED = {"0", "5"}  # 5: there are no tests


def copy_tree(target: Path) -> None:
    """All files of the working tree that git does not ignore."""
    listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def visible_tests(path: str, tree: Path) -> list[str]:
    """Test files that import a module, themselves or by a helper, then the others of its package; likeliest first."""
    files = {file: file.read_text("utf-8") for file in sorted((tree / "tests").rglob("*.py"))}
    names = [dotted(path)]
    names += [
        dotted(str(f.relative_to(tree))) for f, text in files.items() if f.stem[:5] != "test_" and names[0] in text
    ]
    imports = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
    mirror = tree / "tests" / Path(path).parent.relative_to("recsys")
    found = {
        file: (file.name != f"test_{Path(path).name}", mirror not in file.parents, not imports.search(text))
        for file, text in files.items()
        if file.name.startswith("test_") and (mirror in file.parents or imports.search(text))
    }
    return [file.relative_to(tree).as_posix() for file in sorted(found, key=found.__getitem__)]


def dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def run_tests(tree: Path, tests: list[str], *, timeout: float, log: Path) -> str:
    """The exit code, or `timeout`, of pytest in a forked process, which has the heavy imports behind it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            _prepare_child(tree, log)
            code = int(pytest.main([*OPTIONS, *tests]))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            raise
        finally:
            os._exit(code)  # nothing above may unwind: the folder is the parent's
    until = time.monotonic() + timeout
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it started
    if done[0]:
        return str(os.waitstatus_to_exitcode(done[1]))
    os.waitpid(child, 0)
    return "timeout"


def _prepare_child(tree: Path, log: Path) -> None:
    """In a session of its own, all that is printed goes to `log`, and our packages are imported from `tree`."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]


class Bench:
    """Tries mutants on a copy of the tree; keeps and takes up results."""

    def __init__(self, folder: Path, *, timeout: float) -> None:
        self.tree, self._log, self._timeout = folder / "tree", folder / "log", timeout
        copy_tree(self.tree)
        self._passing: set[str] = set()
        KEPT.parent.mkdir(exist_ok=True)
        lines = KEPT.read_text("utf-8").splitlines() if KEPT.exists() else []
        self._kept: dict[str, dict[str, Any]] = {entry["key"]: entry for entry in map(json.loads, lines)}

    def outcome(self, path: str, code: str) -> dict[str, Any]:
        tests = visible_tests(path, self.tree)
        state = hashlib.sha256(b"".join((self.tree / test).read_bytes() for test in tests)).hexdigest()
        key = hashlib.sha256(f"{path}\0{code}".encode()).hexdigest()
        entry = self._kept.get(key)
        if entry is None or (entry["outcome"] in PASSED and entry["tests"] != state):
            self._check(tests)
            start, original = time.monotonic(), (self.tree / path).read_text("utf-8")
            (self.tree / path).write_text(code, "utf-8")
            outcome = run_tests(self.tree, tests, timeout=self._timeout, log=self._log) if tests else "5"
            (self.tree / path).write_text(original, "utf-8")
            entry = {"key": key, "tests": state, "outcome": outcome, "seconds": round(time.monotonic() - start, 1)}
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        return entry

    def _check(self, tests: list[str]) -> None:
        """The tests pass without a mutant, or nothing follows from their failing."""
        fresh = [test for test in tests if test not in self._passing]
        if fresh and run_tests(self.tree, fresh, timeout=3600, log=self._log) not in PASSED:
            sys.exit(f"{self._log.read_text('utf-8')}\nthe tests fail without a mutant; repair that first")
        self._passing |= set(fresh)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="*", default=PATHS)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600, help="seconds a mutant")
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
    figures = {"sample": len(results), "seed": options.seed, "population": len(population), "survivors": len(survivors)}
    figures["score"] = round(1 - len(survivors) / max(1, len(results)), 4)
    figures["seconds_a_mutant"] = round(sum(entry["seconds"] for entry in results) / max(1, len(results)), 1)
    print("\n" + json.dumps(figures | {"survived": [entry["place"] for entry in survivors]}))


if __name__ == "__main__":
    main()
