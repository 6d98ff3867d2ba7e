"""Atomic writes of files and folders, and files verified by size and sha256.

Writes under a temporary name, syncs and renames, so that a kill leaves the old version or the new one, never a part.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from recsys.config import Config
from recsys.errors import ArtifactError


class FileRecord(Config):
    """Digest and size in bytes of a file, as it was written."""

    sha256: str
    size: int

    def damage(self, path: Path, *, hashed: bool = True) -> str | None:
        """What is wrong with the file at `path`, or None; not `hashed`, only existence and size are checked."""
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != self.size:
            return f"{path} has {size} bytes, {self.size} were written"
        if hashed and file_sha256(path) != self.sha256:
            return f"{path} is corrupted: its sha256 is not the one written"
        return None


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Turn 'no space left' errors of any library into one clear line."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:  # polars and safetensors raise their own, with the system's message
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise ArtifactError(
                f"no space left for {path}; free some and run the same command again, finished work is kept"
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a file that replaces `path`, synced, when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    sync(temporary)
    temporary.replace(path)


def publish_folder(folder: Path, target: Path) -> None:
    """Sync everything in a folder and rename it to `target`, which must not exist, or be empty."""
    sync_tree(folder)
    folder.rename(target)
    sync(target.parent)


def link_tree(source: Path, target: Path) -> None:
    """Make a folder's files appear in another, new or not, without using space; copied where links are not possible.

    For files that are never changed in place, only replaced.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link(path, target / path.relative_to(source))


def link(path: Path, target: Path) -> None:
    """`link_tree` of one file; it replaces `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(path, target)


def file_sha256(path: Path) -> str:
    """Hex digest of a file; cached in this process by path, size and modification time."""
    status = path.stat()
    return _digest(str(path), status.st_size, status.st_mtime_ns)


def fingerprint(path: Path) -> str:
    """Hash of a file's or a folder's contents: of bytes and of names inside the folder, not of the path."""
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
    """Flush a file's or a folder's contents to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
