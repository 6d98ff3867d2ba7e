"""What a bundle says of itself: how it ranks, where its parts come from, and the sha256 and size of every file.

Reads `manifest.json` of a bundle; the models of its contents and the bundle's id live here.
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

FORMAT = 1
MANIFEST, GOLDEN = "manifest.json", "golden.json"
DISCRETE, CONTINUOUS = "discrete", "continuous"


class EmbedMetadata(Config):
    """How the items' vectors came about; `encoder` is `vectors` where they are from a file of the user's own."""

    encoder: Literal["tfidf", "sentence-transformers", "vectors"]
    fields: tuple[str, ...] = ()
    text_dimensions: int = Field(ge=1)
    collaborative_dimensions: int | None = None


class BundleSettings(Config):
    """How a bundle ranks: its routes, the newest items of a history that are read, and what the run was told."""

    routes: tuple[Literal["discrete", "continuous"], ...]
    max_history: int = Field(ge=1)
    exclude_seen: bool
    seed: int
    recommend: RecommendConfig
    tokenize: TokenizeConfig
    embed: EmbedMetadata


class Manifest(Config):
    """`parents` are the stages' fingerprints, `versions` those of packages; neither counts in the bundle's id."""

    format: Literal[1] = 1
    bundle: str
    created: str
    settings: BundleSettings
    parents: dict[str, str]
    versions: dict[str, str]
    files: dict[str, FileRecord]


def bundle_id(settings: dict[str, Any], files: dict[str, FileRecord]) -> str:
    """16 hex digits that files and settings decide. The golden answers follow from them and do not count."""
    digests = {name: entry.sha256 for name, entry in sorted(files.items()) if name != GOLDEN}
    return text_sha256(json.dumps([settings, digests], sort_keys=True))[:16]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder; the files that it names are not looked at.

    Raises:
        ArtifactError: there is none, it is of another version, names a path outside, or its id is not that of its
            contents.
    """
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} is no bundle (it has no {MANIFEST}); make one with `recsys bundle RUN --out DIR`"
        )
    given = read_json(folder / MANIFEST)
    manifest = _parsed(folder, given)
    if bundle_id(given["settings"], manifest.files) != manifest.bundle:
        raise ArtifactError(
            f"{folder / MANIFEST}: its files and settings are not those of bundle {manifest.bundle}; "
            "parts of two bundles are never mixed, make the bundle again"
        )
    return manifest


def _parsed(folder: Path, given: dict[str, Any]) -> Manifest:
    if given.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder / MANIFEST} has format {given.get('format')!r}, this program reads format {FORMAT}; "
            "make the bundle again"
        )
    try:
        manifest = Manifest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{folder / MANIFEST} is corrupted or of another version ({where}: {first['msg']}); make the bundle again"
        ) from error
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or "\0" in name:
            raise ArtifactError(f"{folder / MANIFEST} names {name!r}, which is no path inside the bundle")
    return manifest
