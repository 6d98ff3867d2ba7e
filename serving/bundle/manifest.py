"""The manifest of a bundle: settings, provenance, and the sha256 and size of every file.

Reads `manifest.json` of a bundle; defines its contents and the bundle id.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationError

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.files import FileRecord, read_json, text_sha256
from recsys.ranking.config import RecommendConfig
from recsys.tokenization.config import TokenizeConfig

FORMAT = 2
MANIFEST, GOLDEN = "manifest.json", "golden.json"
DISCRETE, CONTINUOUS = "discrete", "continuous"


class EmbedMetadata(Config):
    """How the item vectors were made; `encoder` is `vectors` where the user provided them as a file."""

    encoder: Literal["tfidf", "sentence-transformers", "vectors"]
    fields: tuple[str, ...] = ()
    text_dimensions: int = Field(ge=1)
    collaborative_dimensions: int | None = None


class BundleSettings(Config):
    """How a bundle ranks: its routes, the number of latest items read of a history, and the run's configuration.

    `exclude_seen` is the policy that is served; `training_repeats` of the `training_interactions` are with an item that
    their user has an earlier one with.
    """

    routes: tuple[Literal["discrete", "continuous"], ...]
    max_history: int = Field(ge=1)
    exclude_seen: bool
    training_repeats: int = Field(ge=0)
    training_interactions: int = Field(ge=0)
    seed: int
    recommend: RecommendConfig
    tokenize: TokenizeConfig
    embed: EmbedMetadata


class Manifest(Config):
    """`parents` are the stages' fingerprints, `versions` those of packages; neither is part of the bundle id."""

    format: Literal[2] = 2
    bundle: str
    created: str
    settings: BundleSettings
    parents: dict[str, str]
    versions: dict[str, str]
    files: dict[str, FileRecord]


def bundle_id(settings: dict[str, Any], files: dict[str, FileRecord]) -> str:
    """16 hex digits from files and settings; the golden answers follow from them and are left out."""
    digests = {name: entry.sha256 for name, entry in sorted(files.items()) if name != GOLDEN}
    return text_sha256(json.dumps([settings, digests], sort_keys=True))[:16]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder; its files are not verified.

    Raises:
        ArtifactError: it is missing, of another format, names a path outside, or its id does not match its contents.
    """
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} is no bundle (it has no {MANIFEST}); make one with `recsys bundle RUN --out DIR`"
        )
    values = read_json(folder / MANIFEST)
    manifest = _parsed(folder, values)
    if bundle_id(values["settings"], manifest.files) != manifest.bundle:
        raise ArtifactError(
            f"{folder / MANIFEST}: its files and settings are not those of bundle {manifest.bundle}; "
            "files of two bundles cannot be mixed, bundle the run again"
        )
    return manifest


def _parsed(folder: Path, values: dict[str, Any]) -> Manifest:
    if values.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder / MANIFEST} has format {values.get('format')!r}, this program reads format {FORMAT}; "
            "bundle the run again"
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{folder / MANIFEST} is corrupted or of another version ({where}: {first['msg']}); bundle the run again"
        ) from error
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or "\0" in name:
            raise ArtifactError(f"{folder / MANIFEST} names {name!r}, which is no path inside the bundle")
    return manifest
