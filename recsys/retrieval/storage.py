"""An item index on disk, written atomically.

Writes and reads a folder of `index.json` (the manifest: parameters, the tuned effort, the measured recall, sha256 and
size of every file), `base-*.faiss` (the FAISS index and the vectors), `items-*.safetensors` (labels, tuning queries)
and `changes-*.safetensors` (removed and added items). File names contain digests and the manifest is written last, so
that an older index in the folder stays readable until then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.files import FileRecord, file_sha256, no_space, read_json, sync, write_json
from recsys.retrieval.base import Base
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.library import import_faiss
from recsys.retrieval.snapshot import Delta, Snapshot
from recsys.retrieval.tuning import TunedEffort
from recsys.tables import FloatArray

MANIFEST = "index.json"
_SUFFIXES = {"base": ".faiss", "items": ".safetensors", "changes": ".safetensors"}


class Stored(NamedTuple):
    """An index: its state, how bases are built, and the queries [Q, D] that they are tuned on."""

    snapshot: Snapshot
    config: IndexConfig
    queries: FloatArray | None
    seed: int


class _File(FileRecord):
    name: str


class _Manifest(Config):
    format: Literal[2] = 2
    items: int
    width: int
    kind: str
    factory: str
    effort_name: str | None
    effort: int
    recall: float
    recall_at: int
    tuned_on: Literal["queries", "perturbed vectors"]
    removed: int
    added: int
    num_additions: int
    seed: int
    config: IndexConfig
    faiss: str
    files: dict[Literal["base", "items", "changes"], _File]


def save_index(stored: Stored, folder: Path) -> None:
    """Write an index into a folder, which is created where needed.

    Raises:
        ArtifactError: there is no space left.
    """
    faiss, base, delta = import_faiss(), stored.snapshot.base, stored.snapshot.delta
    alive = stored.snapshot.alive if stored.snapshot.alive is not None else np.ones(len(base), dtype=np.bool_)
    queries = stored.queries if stored.queries is not None else np.empty((0, base.vectors.shape[1]), np.float32)
    items: dict[str, npt.NDArray[Any]] = {"labels": base.labels, "queries": queries}
    changes: dict[str, npt.NDArray[Any]] = {
        "alive": alive,
        "labels": delta.labels,
        "vectors": delta.vectors,
        "addition_ids": delta.addition_ids,
    }
    with no_space(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "base": _published(folder, "base", lambda path: faiss.write_index(base.index, str(path))),
            "items": _published(folder, "items", lambda path: save_file(items, path)),
            "changes": _published(folder, "changes", lambda path: save_file(changes, path)),
        }
        manifest = _manifest(stored, removed=int((~alive).sum()), files=files, version=faiss.__version__)
        sync(folder)
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        sync(folder)
    _remove_others(folder, {entry.name for entry in files.values()})


def load_index(folder: Path, *, memory_map: bool) -> Stored:
    """What `save_index` wrote.

    Raises:
        ArtifactError: a file is missing, truncated, altered or of another version.
    """
    manifest = _read_manifest(folder)
    paths = {role: _verified(folder, entry) for role, entry in manifest.files.items()}
    items, changes = _tensors(paths["items"], memory_map), _tensors(paths["changes"], memory_map)
    try:
        base = Base(
            _read_faiss(paths["base"], memory_map),
            items["labels"],
            manifest.kind,
            manifest.factory,
            manifest.config.metric,
            manifest.recall_at,
            TunedEffort(manifest.effort, manifest.recall),
        )
        alive = changes["alive"] if manifest.removed else None
        delta = Delta(changes["labels"], changes["vectors"], changes["addition_ids"])
        queries = np.array(items["queries"]) if len(items["queries"]) else None
    except KeyError as error:
        raise ArtifactError(f"the index in {folder} lacks {error}; run `index` again") from error
    return Stored(Snapshot(base, alive, delta, manifest.num_additions), manifest.config, queries, manifest.seed)


def _manifest(stored: Stored, *, removed: int, files: dict[Any, _File], version: str) -> _Manifest:
    base = stored.snapshot.base
    return _Manifest(
        items=len(base),
        width=base.vectors.shape[1],
        kind=base.kind,
        factory=base.factory,
        effort_name=base.effort_name,
        effort=base.tuned.effort,
        recall=base.tuned.recall,
        recall_at=base.recall_at,
        tuned_on="perturbed vectors" if stored.queries is None else "queries",
        removed=removed,
        added=len(stored.snapshot.delta.labels),
        num_additions=stored.snapshot.num_additions,
        seed=stored.seed,
        config=stored.config,
        faiss=version,
        files=files,
    )


def _published(folder: Path, role: str, write: Callable[[Path], object]) -> _File:
    """Write a file under a temporary name, sync it, and rename it after its digest."""
    temporary = folder / f".{role}.{uuid4().hex}.tmp"  # unique, as digests are cached by path
    try:
        write(temporary)
    except RuntimeError as error:  # from FAISS, which does not say whether the disk is full
        raise ArtifactError(f"FAISS could not write {temporary} ({error}); is there space left?") from error
    sync(temporary)
    digest, size = file_sha256(temporary), temporary.stat().st_size
    name = f"{role}-{digest[:16]}{_SUFFIXES[role]}"
    temporary.replace(folder / name)
    return _File(name=name, sha256=digest, size=size)


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Files of an older index, and temporary files of killed writers."""
    for role, suffix in _SUFFIXES.items():
        for path in [*folder.glob(f"{role}-*{suffix}"), *folder.glob(f".{role}.*.tmp")]:
            if path.name not in kept:
                path.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run `index` first")
    try:
        manifest = _Manifest.model_validate(read_json(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(
            f"{path} is corrupted or of another version ({where}: {error.errors()[0]['msg']}); run `index` again"
        ) from error
    if set(manifest.files) != set(_SUFFIXES):
        raise ArtifactError(f"{path} does not name the files {', '.join(_SUFFIXES)}; run `index` again")
    return manifest


def _verified(folder: Path, entry: _File) -> Path:
    path = folder / entry.name
    wrong = entry.damage(path) if Path(entry.name).name == entry.name else f"{path} is missing"  # never outside
    if wrong is not None:
        raise ArtifactError(f"{wrong}; run `index` again")
    return path


def _tensors(path: Path, memory_map: bool) -> dict[str, Any]:
    """The arrays of a safetensors file; torch's reader maps the file, numpy's copies it."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); run `index` again") from error
    return {name: (tensor if memory_map else tensor.clone()).numpy() for name, tensor in tensors.items()}


def _read_faiss(path: Path, memory_map: bool) -> Any:
    faiss = import_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if memory_map else 0)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} cannot be read by FAISS {faiss.__version__} ({error}); run `index` again"
        ) from error
