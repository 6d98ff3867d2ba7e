"""Files that are whole or not there, and known by their contents.

Writes by temporary name, fsync and rename; reads files to hash them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recsys.errors import ArtifactError


class NoSpace:
    """Turn 'no space left' of whichever library met it into one clear line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, ArtifactError):
            return
        # polars and safetensors report the condition in their own exceptions, by the system's words.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (isinstance(error, Exception) and "No space left on device" in str(error)):
            raise ArtifactError(
                f"no space left for {self.path}; free some and run the same command again, finished work is kept"
            ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_sha256(path: Path) -> str:
    """Hex digest of a file; computed once a process for an unchanged size and time of change."""
    status = path.stat()
    return _digest(str(path), status.st_size, status.st_mtime_ns)


def fingerprint(path: Path) -> str:
    """Of a file's or a folder's contents: names inside the folder and bytes count, the path does not."""
    if path.is_file():
        return file_sha256(path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return text_sha256(json.dumps({name: file_sha256(path / name) for name in names}))


@cache
def _digest(path: str, size: int, modified: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ArtifactError: the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); delete it: a manifest is rebuilt, a stage runs again"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is corrupted: a JSON object is needed")
    return value


def sync(path: Path) -> None:
    """Have a file's or a folder's contents reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
