"""Detects the format of a source, downloads it if needed, and reads it.

Reads local files, folders and zip archives, or URLs; writes downloads and unpacked archives into a work folder.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import get_args

from recsys.data.amazon import detect_release, read_amazon
from recsys.data.config import SYNTHETIC, Kind, PrepareConfig
from recsys.data.download import download
from recsys.data.jsonlines import SUFFIXES as JSON_SUFFIXES
from recsys.data.movielens import read_movielens
from recsys.data.raw import RawData, Rejects
from recsys.data.synthetic import generate
from recsys.data.table import SUFFIXES as TABLE_SUFFIXES
from recsys.data.table import Columns, find_table, read_table
from recsys.errors import ConfigError, DataError
from recsys.tracking import Tracker

ACCEPTED = (
    "interactions.csv or .parquet (and items.csv or .parquet), raw Amazon reviews (*.json.gz, *.jsonl.gz), "
    "or MovieLens (ratings.dat or ratings.csv)"
)


def read_source(config: PrepareConfig, *, seed: int, work: Path, rejects: Rejects, tracker: Tracker) -> RawData:
    """Read what `config` names; downloads go to its `download_folder`, or into `work`.

    Raises:
        ConfigError: no source is given.
        DataError: it is missing, empty, of an unknown format, or has too many bad rows.
    """
    if SYNTHETIC in (config.source, config.kind):
        return generate(config.synthetic, seed=seed)
    path = _locate(config, work, tracker)
    kind = config.kind if config.kind != "auto" else _detect(path)
    share = config.max_bad_share
    if kind == "table":
        columns = Columns(config.user_column, config.item_column, config.time_column)
        interactions = path if path.is_file() else find_table(path, "interactions")
        if interactions is None:
            raise _unknown(path)
        items = None if path.is_file() else find_table(path, "items")
        raw = read_table(interactions, items, columns=columns, rejects=rejects, max_bad_share=share)
    elif kind == "movielens":
        raw = read_movielens(path.parent if path.is_file() else path, rejects=rejects, max_bad_share=share)
    else:
        reviews, metadata = _amazon_files(path)
        raw = read_amazon(reviews, metadata, kind=kind, rejects=rejects, max_bad_share=share, tracker=tracker)
    return raw._replace(notes={"kind": kind, **raw.notes})


def _locate(config: PrepareConfig, work: Path, tracker: Tracker) -> Path:
    """The file or folder to read, downloaded and unpacked."""
    if config.downloads:
        folder = config.download_folder or work / "downloads"
        downloaded = [download(d.url, folder, sha256=d.sha256, tracker=tracker) for d in config.downloads]
        archives = [path for path in downloaded if zipfile.is_zipfile(path)]
        return _unpack(archives, work / "unpacked") if archives else folder
    if not config.source:
        raise ConfigError(
            f"prepare.source is not set; name a folder or file with {ACCEPTED}, or '{SYNTHETIC}', "
            "or list URLs in prepare.downloads"
        )
    path = Path(config.source).expanduser()
    if not path.exists():
        raise DataError(f"prepare.source={config.source} does not exist; name a folder or file with {ACCEPTED}")
    return _unpack([path], work / "unpacked") if path.suffix == ".zip" else path


def _unpack(archives: list[Path], folder: Path) -> Path:
    """Extract the files of all archives into one folder, flattened."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as content:
                for entry in content.infolist():
                    if not entry.is_dir():
                        (folder / Path(entry.filename).name).write_bytes(content.read(entry))
        except zipfile.BadZipFile as error:
            raise DataError(f"{archive} cannot be unpacked ({error}); download it again") from error
    return folder


def _detect(path: Path) -> Kind:
    files = [path] if path.is_file() else _files(path)
    names = {file.name for file in files}
    if path.is_dir() and find_table(path, "interactions"):
        return "table"
    if names & {"ratings.dat", "ratings.csv"}:
        return "movielens"
    if path.is_file() and path.suffix in TABLE_SUFFIXES:
        return "table"
    if any(name.endswith(JSON_SUFFIXES) for name in names):
        return next(kind for kind in get_args(Kind) if kind == detect_release(_amazon_files(path)[0]))
    raise _unknown(path)


def _amazon_files(path: Path) -> tuple[Path, Path | None]:
    """The file of reviews and the one of metadata."""
    files = [path] if path.is_file() else [file for file in _files(path) if file.name.endswith(JSON_SUFFIXES)]
    metadata = [file for file in files if file.name.lower().startswith("meta")]
    reviews = [file for file in files if file not in metadata]
    if len(reviews) != 1 or len(metadata) > 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"{path}: one file of reviews and at most one of metadata (its name starts with 'meta') are needed; "
            f"found {found}; put one category into a folder of its own"
        )
    return reviews[0], metadata[0] if metadata else None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _unknown(path: Path) -> DataError:
    found = path.name if path.is_file() else ", ".join(file.name for file in _files(path)) or "an empty folder"
    return DataError(f"{path} holds no readable data (found {found}); needed: {ACCEPTED}")
