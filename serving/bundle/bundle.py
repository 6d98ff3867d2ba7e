"""A bundle: one immutable directory with everything that answers requests, known by the hash of its contents.

Writes and reads `manifest.json` (settings, where the parts come from, sha256 and size of every file) and the files it
names. There is no user in a bundle, only how often each item was met.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.embeddings.neighbours import TEXT_NEIGHBOURS
from recsys.errors import ArtifactError
from recsys.files import FileRecord, NoSpace, read_json, sync, write_json
from serving.bundle.manifest import CONTINUOUS, DISCRETE, MANIFEST, BundleSettings, Manifest, bundle_id, read_manifest

__all__ = ["CONTINUOUS", "DISCRETE", "Bundle", "Origin", "is_bundle", "open_bundle", "write_bundle"]

METRICS, CATALOG, COUNTS, FUSION = "metrics.json", "catalog.parquet", "counts.parquet", "fusion.json"
SEMANTIC_IDS, LATENTS = "discrete/semantic_ids.parquet", "continuous/latents.parquet"
LANGUAGE_MODEL, PREFERENCE, INDEX, TEXT_ENCODER = "language_model", "preference", "index", "text_encoder"
_ALWAYS = (CATALOG, COUNTS, SEMANTIC_IDS, "discrete/tokenizer.json", f"{LANGUAGE_MODEL}/language_model.json")
_BOTH = (LATENTS, "continuous/continuous.json", f"{PREFERENCE}/preference.json", f"{INDEX}/index.json", FUSION)


class Origin(NamedTuple):
    """What a manifest says beside its files."""

    settings: BundleSettings
    parents: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True, repr=False)
class Bundle:
    """A bundle on disk, every file of which was what its manifest says when it was opened."""

    folder: Path
    manifest: Manifest

    def __repr__(self) -> str:
        return f"<Bundle {self.id} ({' + '.join(self.manifest.settings.routes)}, {len(self.manifest.files)} files)>"

    @property
    def id(self) -> str:
        return self.manifest.bundle

    @property
    def settings(self) -> dict[str, Any]:
        """How it ranks, as plain values."""
        return self.manifest.settings.model_dump(mode="json")

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that it was made with."""
        return self.manifest.versions

    def part(self, name: str) -> Path | None:
        """A file or folder of the bundle; None where it has none of that name."""
        there = name in self.manifest.files or any(file.startswith(f"{name}/") for file in self.manifest.files)
        return self.folder / name if there else None


def is_bundle(folder: Path) -> bool:
    """Whether a folder says of itself that it is a bundle."""
    path = folder / MANIFEST
    return path.is_file() and "bundle" in read_json(path)


def write_bundle(
    out: Path, origin: Origin, fill: Callable[[Path], None], *, answer: Callable[[Path], None] | None = None
) -> Bundle:
    """Write a bundle so that a kill leaves all of it or nothing.

    Args:
        out: where; a folder that holds the same bundle is left as it is.
        fill: puts the files into a folder.
        answer: adds `golden.json` to a folder that can be opened as a bundle.

    Raises:
        ArtifactError: `out` is something else, or another process is writing it.
    """
    out = out.absolute()
    _check_target(out)
    with NoSpace(out), _partial(out) as partial:
        fill(partial)
        made = _describe(partial, origin)
        if is_bundle(out):
            return _same(out, made)
        if answer is not None:
            answer(partial)
            made = _describe(partial, origin)
        for path in sorted(partial.rglob("*")):
            sync(path)
        sync(partial)
        partial.rename(out)
        sync(out.parent)
    return Bundle(out, made)


def open_bundle(folder: Path) -> Bundle:
    """A bundle, every file of it compared with the manifest.

    Raises:
        ArtifactError: a file is missing, altered, not named or of another bundle; it is named.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    found = set(_files(folder)) - {MANIFEST}
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry, there=name in found)
    for name in sorted(found - manifest.files.keys()):
        raise ArtifactError(f"{folder / name} is not named by the manifest; a bundle holds nothing else, remove it")
    _check_parts(folder, manifest)
    return Bundle(folder, manifest)


def _files(folder: Path) -> Iterator[str]:
    """Names of all files inside; links are refused, they lead out."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"{path} is a link or no file; a bundle holds plain files only")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _check_file(folder: Path, name: str, entry: FileRecord, *, there: bool) -> None:
    path = folder / name
    if not there:
        raise ArtifactError(f"{path} is missing; make the bundle again")
    size = path.stat().st_size
    if size != entry.size:
        raise ArtifactError(f"{path} has {size} bytes, {entry.size} were written; make the bundle again")
    if _digest(path) != entry.sha256:
        raise ArtifactError(f"{path} is corrupted: its sha256 is not the one written; make the bundle again")


def _check_parts(folder: Path, manifest: Manifest) -> None:
    """Everything that the routes need is there, and all of it is about the same items."""
    both = "continuous" in manifest.settings.routes
    behaviour = manifest.settings.embed.collaborative_dimensions is not None
    for name in (*_ALWAYS, *(_BOTH if both else ()), *((TEXT_NEIGHBOURS,) if behaviour else ())):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST} does not name {name}, which it needs; bundle the run again")
    items = _item_ids(folder / CATALOG)
    for name in (COUNTS, SEMANTIC_IDS, *((LATENTS,) if both else ())):
        if not _item_ids(folder / name).equals(items):
            raise ArtifactError(
                f"{folder / name} is not about the items of {CATALOG}; parts of two bundles are never mixed"
            )


def _item_ids(path: Path) -> pa.ChunkedArray:
    try:
        return pq.read_table(path, columns=["item_id"])["item_id"].cast(pa.large_string())
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are of these
        raise ArtifactError(f"{path} is no table of items ({' '.join(str(error).split())})") from error


def _describe(folder: Path, origin: Origin) -> Manifest:
    """Write the manifest of what lies in a folder."""
    settings = origin.settings.model_dump(mode="json")
    files = {
        name: FileRecord(sha256=_digest(folder / name), size=(folder / name).stat().st_size)
        for name in _files(folder)
        if name != MANIFEST
    }
    manifest = Manifest(
        bundle=bundle_id(settings, files),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=origin.settings,
        parents=origin.parents,
        versions=origin.versions,
        files=files,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _digest(path: Path) -> str:
    """Read anew every time: what was true of a file some hours ago proves nothing."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_target(out: Path) -> None:
    if out.is_dir() and (is_bundle(out) or not any(out.iterdir())):
        return
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out} is there and is no bundle; choose a new folder")


def _same(out: Path, made: Manifest) -> Bundle:
    there = open_bundle(out)
    if there.id != made.bundle:
        raise ArtifactError(
            f"{out} holds bundle {there.id}, this one is {made.bundle}; a bundle never changes, choose a new folder"
        )
    return there


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """An empty sibling folder that this process alone writes; gone at the end unless it was renamed."""
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(f"another process is writing {out}; wait for it or choose another folder") from error
        for entry in partial.iterdir():  # what a kill left
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(descriptor)
