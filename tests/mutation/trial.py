"""The tests that can see a mutant, run on a copy of the tree in a process of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = ["-x", "-q", "--tb=line", "--assert=plain", "-p", "no:cacheprovider", "--timeout=120", "--hypothesis-seed=0"]
OPTIONS += ["-m", "not slow and not gpu and not browser"]


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
    package = Path(path).parent.relative_to("recsys")
    mirror = tree / "tests" / package if package.name else tree / "none"
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
    until, status = time.monotonic() + timeout, None
    try:
        while status is None and time.monotonic() < until:
            time.sleep(0.05)
            done, code = os.waitpid(child, os.WNOHANG)
            status = code if done else None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what it started
    if status is not None:
        return str(os.waitstatus_to_exitcode(status))
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
