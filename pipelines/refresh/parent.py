"""The run that is continued: what is taken from it, and whether it is what it was.

Reads a run directory.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines import CONTINUOUS, DISCRETE, FOLDERS
from pipelines.config import ParentRun, RunConfig
from pipelines.seeds import require_own_run
from recsys.artifacts import RunDirectory, stage_and_part
from recsys.errors import ArtifactError, ConfigError
from recsys.files import text_sha256

TAKEN = ("prepare", "embed", "tokenize", "instruct", "finetune")


def named(directory: RunDirectory, config: RunConfig) -> ParentRun:
    """A run as a parent, after verifying every file that is taken from it.

    Raises:
        ConfigError: it has no language model.
        ArtifactError: it is not finished as far as that, or damaged, or its parts are not of each other.
    """
    require_own_run(directory)
    if config.tokenize.kind == CONTINUOUS:
        raise ConfigError(
            f"{directory.path} has no language model to train on (tokenize.kind={CONTINUOUS}); refresh a run with "
            f"tokenize.kind={DISCRETE} or both"
        )
    for stage in TAKEN:
        directory.verified(stage)
    _require_of_each_other(directory)
    return ParentRun(path=directory.path, fingerprint=_fingerprint(directory))


def parent_run(config: RunConfig) -> RunDirectory:
    """The parent of a refreshed run.

    Raises:
        ArtifactError: it is gone, or not what it was.
    """
    assert config.parent is not None
    directory = RunDirectory(config.parent.path, FOLDERS)
    found = _fingerprint(directory)
    if found != config.parent.fingerprint:
        raise ArtifactError(
            f"{config.parent.path} is not the run that was refreshed (fingerprint {found[:12]}, not "
            f"{config.parent.fingerprint[:12]}); start `recsys refresh` with another --out"
        )
    return directory


def parent_folder(config: RunConfig, name: str) -> Path:
    """The folder of a stage of the parent, or of a part of it, every file of it verified; errors as `parent_run`."""
    return parent_run(config).verified(name)


def _fingerprint(directory: RunDirectory) -> str:
    """Of the contents of everything that is taken, wherever it is."""
    return text_sha256(json.dumps([directory.existing_record(stage).fingerprint() for stage in TAKEN]))


def _require_of_each_other(directory: RunDirectory) -> None:
    """Refuse a language model that was trained on other data or tokens than the run has now."""
    inputs = directory.existing_record("finetune").key.inputs
    for name in ("prepare", "tokenize/discrete"):
        stage, part = stage_and_part(name)
        if inputs.get(name) != directory.existing_record(stage).fingerprint(part):
            raise ArtifactError(
                f"the language model of {directory.path} was trained on another {directory.folder(stage).name} than "
                f"is there now; finish the run first: `recsys run --config {directory.path / 'config.yaml'} "
                f"--out {directory.path}`"
            )
