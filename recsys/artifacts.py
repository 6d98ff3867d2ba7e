"""The run directory: stages publish their folders atomically, and every file is verified before it is read.

Reads and writes `RUN/NN_name/` (one folder a stage, with its record `stage.json`), `RUN/manifest.json` (all records,
derived from the stage.json files), `RUN/.NN_name.partial` (a stage being written) and `RUN/.work/NN_name` (state that
survives a kill, such as checkpoints). One rename publishes a folder together with its record, so a kill at any instant
leaves the old stage or the new one; an outdated manifest is rebuilt when the directory is next locked for writing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.files import (
    FileRecord,
    file_sha256,
    link,
    no_space,
    publish_folder,
    read_json,
    sync_tree,
    text_sha256,
    write_json,
)

FORMAT = 1
RECORD, MANIFEST, KEY = "stage.json", "manifest.json", "key.json"
PACKAGES = ("recsys", "torch", "transformers", "peft", "polars", "pyarrow", "numpy", "scikit-learn", "mlflow")

logger = logging.getLogger(__name__)


class StageKey(Config):
    """What determines a stage's result: settings (dotted key -> value), code version, fingerprints of its inputs."""

    settings: dict[str, Any]
    code: int
    inputs: dict[str, str]

    @property
    def config_hash(self) -> str:
        return text_sha256(json.dumps(self.settings, sort_keys=True))


class StageRecord(Config):
    """The record of a finished stage; `seconds` are those of the process that finished it."""

    format: int = FORMAT
    stage: str
    key: StageKey
    config_hash: str
    files: dict[str, FileRecord]
    seconds: float
    versions: dict[str, str]
    notes: dict[str, Any]

    def part(self, part: str) -> dict[str, FileRecord]:
        """The files of a part (a folder inside the stage's), all files where `part` is empty."""
        return {
            name: entry for name, entry in sorted(self.files.items()) if name.startswith(f"{part}/" if part else "")
        }

    def fingerprint(self, part: str = "") -> str:
        """Hash of the contents alone: the same files have the same fingerprint in every run directory."""
        return text_sha256(json.dumps({name: entry.sha256 for name, entry in self.part(part).items()}))


@dataclass(frozen=True)
class StageRun:
    """Input and output folders of one execution of a stage.

    `out` is published when the stage ends. `work` survives a kill (checkpoints go there), is emptied when the stage's
    key has changed, and removed when the stage is done. `sibling` is the folder of the same stage under another seed,
    with the same settings and data, every file of it verified: what no seed changes is taken from there.
    """

    stage: str
    out: Path
    work: Path
    directory: RunDirectory
    reads: tuple[str, ...]
    sibling: Path | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def read(self, name: str) -> Path:
        """The folder of an earlier stage, or of a part of it ("stage/part"), every file of it verified.

        Raises:
            ArtifactError: it is missing, or a file in it is not what was written.
        """
        assert name in self.reads, f"{self.stage} does not declare that it reads {name}"
        return self.directory.verified(name)

    def record(self, stage: str) -> StageRecord:
        """The record of a finished stage (seconds, notes, versions)."""
        return self.directory.existing_record(stage)

    def note(self, **values: Any) -> None:
        """Keep JSON values in the stage's record and log them."""
        self.notes.update(values)
        shown = {name.replace("_", " "): f"{v:.4g}" if isinstance(v, float) else v for name, v in values.items()}
        logger.info("      %s", ", ".join(f"{name} {value}" for name, value in shown.items()))


class RunDirectory:
    """A numbered directory of stages. `folders` maps each stage's name to its folder's name, in flow order."""

    def __init__(self, path: Path, folders: Mapping[str, str]) -> None:
        """Open a directory, which may not exist yet; nothing is written.

        Raises:
            ArtifactError: it is not a run directory, or of another version.
        """
        self.path = path.absolute()
        self.folders = dict(folders)
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ArtifactError(f"{self.path} is a file; a run directory is needed, choose another path")
        manifest = self.path / MANIFEST
        if manifest.exists():
            found = read_json(manifest).get("format")
            if found != FORMAT:
                raise ArtifactError(
                    f"run directory {self.path} has format {found}, this program reads format {FORMAT}; "
                    "choose another directory or the version of recsys that wrote it"
                )
        elif any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise ArtifactError(f"{self.path} is no run directory (it has no {MANIFEST}); choose a new or empty folder")

    def __repr__(self) -> str:
        return f"<RunDirectory {self.path} ({', '.join(self._records()) or 'empty'})>"

    def folder(self, stage: str) -> Path:
        return self.path / self.folders[stage]

    def record(self, stage: str) -> StageRecord | None:
        """The record of a finished stage, None where there is none yet.

        Raises:
            ArtifactError: the record cannot be read.
        """
        path = self.folder(stage) / RECORD
        if not path.exists():
            if self.folder(stage).exists():
                raise ArtifactError(f"{path} is missing; delete {self.folder(stage)} to have the stage run again")
            return None
        try:
            return StageRecord.model_validate(read_json(path))
        except ValidationError as error:
            raise ArtifactError(f"{path} is corrupted; delete {path.parent} to have the stage run again") from error

    def existing_record(self, stage: str) -> StageRecord:
        record = self.record(stage)
        if record is None:
            raise ArtifactError(f"{self.folder(stage)} is missing; run the stage '{stage}' first")
        return record

    def unfinished(self, stage: str) -> StageKey | None:
        """The key of work on a stage that was cut short and waits to be continued."""
        marker = self._work(stage) / KEY
        return StageKey.model_validate(read_json(marker)) if marker.exists() else None

    def damage(self, stage: str, part: str = "", *, hashed: bool = False) -> str | None:
        """What is wrong with a finished stage, or a part of it; not `hashed`, only names and sizes are checked."""
        files = self.existing_record(stage).part(part)
        found = (entry.damage(self.folder(stage) / name, hashed=hashed) for name, entry in files.items())
        return next(filter(None, found), None)

    def verified(self, name: str) -> Path:
        """The folder of a finished stage, or of a part of it ("stage/part"), after verifying every file's sha256.

        An unchanged file is hashed once a process.

        Raises:
            ArtifactError: the stage or the part is missing, or a file in it is not what was written.
        """
        stage, part = stage_and_part(name)
        if part and not self.existing_record(stage).part(part):
            raise ArtifactError(f"{self.folder(stage) / part} is missing; the run's configuration leaves it out")
        wrong = self.damage(stage) or self.damage(stage, part, hashed=True)
        if wrong is not None:
            raise ArtifactError(f"{wrong}; delete {self.folder(stage)} to have the stage run again")
        return self.folder(stage) / part

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the directory if needed, lock it against other writers, and finish publications that a kill cut short.

        Raises:
            ArtifactError: another process is writing it.
        """
        with no_space(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / ".lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise ArtifactError(
                        f"another process is writing {self.path}; wait for it or choose another directory"
                    ) from error
                self._repair()
                yield

    @contextmanager
    def stage(
        self, stage: str, key: StageKey, reads: tuple[str, ...], *, sibling: Path | None = None
    ) -> Iterator[StageRun]:
        """Write a stage: `run.out` is published atomically when the block ends without an error."""
        partial, work = self._partial(stage), self._work(stage)
        shutil.rmtree(partial, ignore_errors=True)
        _prepare_work(work, key)
        partial.mkdir()
        run, started = StageRun(stage, partial, work, self, reads, sibling), time.monotonic()
        yield run
        record = StageRecord(
            stage=stage,
            key=key,
            config_hash=key.config_hash,
            files=_describe(partial),
            seconds=round(time.monotonic() - started, 3),
            versions=package_versions(),
            notes=run.notes,
        )
        write_json(partial / RECORD, record.model_dump(mode="json"))
        self._publish(stage)
        shutil.rmtree(work, ignore_errors=True)

    def adopt(self, stage: str, other: RunDirectory) -> None:
        """Publish a finished stage of another directory here too; every file is verified, and linked, not copied.

        Raises:
            ArtifactError: it is missing there, or damaged.
        """
        source, partial = other.verified(stage), self._partial(stage)
        shutil.rmtree(partial, ignore_errors=True)
        for name in (*sorted(other.existing_record(stage).files), RECORD):  # its record last: it is complete then
            link(source / name, partial / name)
        self._publish(stage)
        shutil.rmtree(self._work(stage), ignore_errors=True)

    def _work(self, stage: str) -> Path:
        return self.path / ".work" / self.folders[stage]

    def _partial(self, stage: str) -> Path:
        return self.path / f".{self.folders[stage]}.partial"

    def _publish(self, stage: str) -> None:
        target, old = self.folder(stage), self.path / f".{self.folders[stage]}.old"
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        publish_folder(self._partial(stage), target)
        shutil.rmtree(old, ignore_errors=True)
        self._write_manifest()

    def _repair(self) -> None:
        """Publish partial folders that have their record: they are complete."""
        for stage, folder in self.folders.items():
            if (self._partial(stage) / RECORD).exists():
                self._publish(stage)
            shutil.rmtree(self.path / f".{folder}.old", ignore_errors=True)
        self._write_manifest()

    def _records(self) -> dict[str, StageRecord]:
        found = {stage: self.record(stage) for stage in self.folders if (self.folder(stage) / RECORD).exists()}
        return {stage: record for stage, record in found.items() if record is not None}

    def _write_manifest(self) -> None:
        stages = {self.folders[stage]: record.model_dump(mode="json") for stage, record in self._records().items()}
        write_json(self.path / MANIFEST, {"format": FORMAT, "stages": stages})


def stage_and_part(name: str) -> tuple[str, str]:
    """Split "stage/part"; the part is empty for the whole folder of a stage."""
    stage, _, part = name.partition("/")
    return stage, part


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _prepare_work(work: Path, key: StageKey) -> None:
    """Keep earlier work only if it was done under the same key."""
    marker = work / KEY
    wanted = key.model_dump(mode="json")
    if work.exists() and not (marker.exists() and read_json(marker) == wanted):
        shutil.rmtree(work)
    if not work.exists():
        work.mkdir(parents=True)
        write_json(marker, wanted)


def _describe(folder: Path) -> dict[str, FileRecord]:
    sync_tree(folder)  # before the record is written, which says that all of it is there
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=file_sha256(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
