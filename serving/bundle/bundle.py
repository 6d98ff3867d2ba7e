"""A bundle: one immutable directory with everything that serving needs, identified by the hash of its contents.

Writes and reads `manifest.json` (settings, provenance, sha256 and size of every file) and the files it names. A bundle
holds no user data, only the number of interactions of each item.
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
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.embeddings.neighbours import TEXT_NEIGHBOURS
from recsys.errors import ArtifactError
from recsys.files import FileRecord, no_space, publish_folder, read_json, write_json
from serving.bundle.manifest import CONTINUOUS, DISCRETE, MANIFEST, BundleSettings, Manifest, bundle_id, read_manifest

__all__ = ["CONTINUOUS", "DISCRETE", "Bundle", "Origin", "is_bundle", "open_bundle", "write_bundle"]

METRICS, CATALOG, COUNTS, FUSION = "metrics.json", "catalog.parquet", "counts.parquet", "fusion.json"
SEMANTIC_IDS, LATENTS = "discrete/semantic_ids.parquet", "continuous/latents.parquet"
LANGUAGE_MODEL, PREFERENCE, INDEX, TEXT_ENCODER = "language_model", "preference", "index", "text_encoder"
_ALWAYS = (CATALOG, COUNTS, SEMANTIC_IDS, "discrete/tokenizer.json", f"{LANGUAGE_MODEL}/language_model.json")
_BOTH = (LATENTS, "continuous/continuous.json", f"{PREFERENCE}/preference.json", f"{INDEX}/index.json", FUSION)


class Origin(NamedTuple):
    """Settings and provenance of a bundle, for its manifest."""

    settings: BundleSettings
    parents: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True, repr=False)
class Bundle:
    """A bundle on disk; every file matched its manifest when it was opened."""

    folder: Path
    manifest: Manifest

    def __repr__(self) -> str:
        return f"<Bundle {self.id} ({' + '.join(self.manifest.settings.routes)}, {len(self.manifest.files)} files)>"

    @property
    def id(self) -> str:
        return self.manifest.bundle

    def part(self, name: str) -> Path | None:
        """The path of a file or folder of the bundle; None where it is missing."""
        exists = name in self.manifest.files or any(file.startswith(f"{name}/") for file in self.manifest.files)
        return self.folder / name if exists else None


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a bundle's manifest."""
    path = folder / MANIFEST
    return path.is_file() and "bundle" in read_json(path)


def write_bundle(
    out: Path, origin: Origin, fill: Callable[[Path], None], *, answer: Callable[[Path], None] | None = None
) -> Bundle:
    """Write a bundle atomically: a kill leaves all of it or nothing.

    Args:
        out: folder; one that holds the same bundle is left as it is.
        fill: writes the files into a folder.
        answer: adds `golden.json` to a folder that can be opened as a bundle.

    Raises:
        ArtifactError: `out` is something else, or another process is writing it.
    """
    out = out.absolute()
    _check_target(out)
    with no_space(out), _partial(out) as partial:
        fill(partial)
        made = _describe(partial, origin)
        if is_bundle(out):
            return _same(out, made)
        if answer is not None:
            answer(partial)
            made = _describe(partial, origin)
        publish_folder(partial, out)
    return Bundle(out, made)


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle and verify every file against the manifest.

    Raises:
        ArtifactError: a file is missing, altered, not in the manifest or of another bundle.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    found = set(_files(folder))
    for name, entry in manifest.files.items():
        damage = entry.damage(folder / name, hashed=False)
        if damage is None and _digest(folder / name) != entry.sha256:
            damage = f"{folder / name} is corrupted: its sha256 differs from the manifest"
        if damage is not None:
            raise ArtifactError(f"{damage}; bundle the run again")
    for name in sorted(found - manifest.files.keys() - {MANIFEST}):
        raise ArtifactError(f"{folder / name} is not in the manifest; remove it")
    _check_parts(folder, manifest)
    return Bundle(folder, manifest)


def _files(folder: Path) -> Iterator[str]:
    """Names of all files inside; links are refused, since they can point outside."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"{path} is no plain file; a bundle holds plain files only")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _check_parts(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the routes is present, and all are of the same items."""
    both = "continuous" in manifest.settings.routes
    behaviour = manifest.settings.embed.collaborative_dimensions is not None
    for name in (*_ALWAYS, *(_BOTH if both else ()), *((TEXT_NEIGHBOURS,) if behaviour else ())):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST} does not name {name}, which it needs; bundle the run again")
    items = _item_ids(folder / CATALOG)
    for name in (COUNTS, SEMANTIC_IDS, *((LATENTS,) if both else ())):
        if not _item_ids(folder / name).equals(items):
            raise ArtifactError(f"{folder / name} has other items than {CATALOG}; files of two bundles cannot be mixed")


def _item_ids(path: Path) -> pa.ChunkedArray:
    try:
        return pq.read_table(path, columns=["item_id"])["item_id"].cast(pa.large_string())
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are of these
        raise ArtifactError(f"{path} is no table of items ({' '.join(str(error).split())})") from error


def _describe(folder: Path, origin: Origin) -> Manifest:
    """Write the manifest of a folder's files."""
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
    """Computed at every call: a file may have changed since."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_target(out: Path) -> None:
    if out.is_dir() and (is_bundle(out) or not any(out.iterdir())):
        return
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out} exists and is no bundle; choose a new folder")


def _same(out: Path, made: Manifest) -> Bundle:
    existing = open_bundle(out)
    if existing.id != made.bundle:
        raise ArtifactError(
            f"{out} holds bundle {existing.id}, this one is {made.bundle}; a bundle never changes, choose a new folder"
        )
    return existing


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """An empty sibling folder, locked by this process; removed at the end unless it was renamed."""
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(f"another process is writing {out}; wait for it or choose another folder") from error
        for entry in partial.iterdir():  # left by a killed process
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(descriptor)
