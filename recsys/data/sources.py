"""The formats of raw data, by name; finds out which one a source has, downloads it if needed, and reads it.

Reads local files, folders and zip archives, or URLs; writes downloads and unpacked archives into a work folder.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from recsys.config import lookup
from recsys.data.amazon import RELEASES, detect_release, read_amazon
from recsys.data.config import AUTO, SYNTHETIC, PrepareConfig
from recsys.data.delimited import Layout
from recsys.data.download import download
from recsys.data.events import Events
from recsys.data.jsonlines import SUFFIXES as JSON_SUFFIXES
from recsys.data.movielens import is_movielens, read_movielens
from recsys.data.opening import KINDS, Table, find_table, is_table_file, is_table_folder, only_table
from recsys.data.profile import UNKNOWN, Profile
from recsys.data.profiling import note_table
from recsys.data.raw import RawData, Reading, Rejects
from recsys.data.synthetic import generate
from recsys.data.table import read_table
from recsys.errors import ConfigError, DataError
from recsys.tracking import Tracker

TABLE = "table"
_NAMED_FILES = 10


class SourceFormat(NamedTuple):
    """A format of raw data.

    `accepts` names its files in error messages. `matches` decides whether a file or folder has this format
    (`prepare.kind=auto` takes the first that does). `read` raises `DataError` where the data cannot be used.
    """

    accepts: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Reading], RawData]


def read_source(
    config: PrepareConfig, *, seed: int, work: Path, rejects: Rejects, tracker: Tracker, profile: Profile
) -> RawData:
    """Read the source that `config` names; downloads go to its `download_folder`, or into `work`.

    The format and the tables found are added to `profile`.

    Raises:
        ConfigError: no source is given, or its format is unknown.
        DataError: it is missing, empty, in no known format, or has too many bad rows.
    """
    profile.kind_is_set = config.kind != AUTO
    if SYNTHETIC in (config.source, config.kind):
        profile.kind = SYNTHETIC
        return _judged(generate(config.synthetic, seed=seed), config, SYNTHETIC)
    path = _locate(config, work, tracker)
    kind = profile.kind = config.kind if config.kind != AUTO else _detect(path, config, profile)
    try:
        raw = lookup(SOURCES, kind, key="prepare.kind").read(path, Reading(config, rejects, tracker, profile))
    except DataError as error:
        if config.kind != AUTO or kind == TABLE:
            raise
        raise DataError(
            f"{error} (prepare.kind={kind} is a guess from the files; set prepare.kind={TABLE} where they are a "
            "user-provided table)"
        ) from error
    return _judged(raw._replace(notes={"kind": kind, **raw.notes}), config, kind)


def _judged(raw: RawData, config: PrepareConfig, kind: str) -> RawData:
    """The data, unless their reader ignores what the configuration says about events or intentions."""
    if raw.not_selected is None and Events.of(config).columns:
        raise ConfigError(
            f"prepare.where, dislikes, weight_column and event_column cannot be used with prepare.kind={kind}, which "
            "reads no columns but users, items and times"
        )
    if config.intention_columns and kind != TABLE:
        raise ConfigError(
            f"prepare.intention_columns cannot be used with prepare.kind={kind}, which reads no texts of interactions; "
            f"write them as a table, and set prepare.kind={TABLE}"
        )
    return raw


def _locate(config: PrepareConfig, work: Path, tracker: Tracker) -> Path:
    """The file or folder to read, downloaded and unpacked."""
    if config.downloads:
        folder = config.download_folder or work / "downloads"
        downloaded = [download(d.url, folder, sha256=d.sha256, tracker=tracker) for d in config.downloads]
        archives = [path for path in downloaded if zipfile.is_zipfile(path)]
        return _unpack(archives, work / "unpacked") if archives else folder
    if not config.source:
        raise ConfigError(
            f"prepare.source is not set; name a folder or file with {accepted()}, or '{SYNTHETIC}', "
            "or list addresses in prepare.downloads"
        )
    path = Path(config.source).expanduser()
    if not path.exists():
        raise DataError(f"prepare.source={config.source} does not exist; name a folder or file with {accepted()}")
    return _unpack([path], work / "unpacked") if path.suffix == ".zip" else path


def _unpack(archives: list[Path], folder: Path) -> Path:
    """Extract all archives into one folder, each without a folder that holds all of it; a single file is returned."""
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as content:
                entries = [e for e in content.infolist() if not e.is_dir() and not _is_hidden(e.filename)]
                tops = {entry.filename.split("/")[0] for entry in entries}
                common = f"{tops.pop()}/" if len(tops) == 1 and all("/" in entry.filename for entry in entries) else ""
                for entry in entries:
                    entry.filename = entry.filename.removeprefix(common)
                    content.extract(entry, folder)  # stays within the folder, whatever the name
        except zipfile.BadZipFile as error:
            raise DataError(f"{archive} cannot be unpacked ({error}); download it again") from error
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if not found:
        raise DataError(f"{archives[0]} holds no files; needed: {accepted()}")
    return found[0] if len(found) == 1 and found[0].is_file() else folder


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def accepted() -> str:
    """All formats that are read, for error messages."""
    return "; ".join(dict.fromkeys(known.accepts for known in SOURCES.values()))


def _detect(path: Path, config: PrepareConfig, profile: Profile) -> str:
    for name, known in SOURCES.items():
        if known.matches(path):
            return name
    raise _unknown(path, config, profile)


def _is_table(path: Path) -> bool:
    if is_movielens(path):
        return False
    return is_table_file(path) or is_table_folder(path) or (path.is_dir() and _interactions(path) is not None)


def _interactions(folder: Path) -> Path | None:
    return find_table(folder, "interactions") or only_table(
        folder, but=[find_table(folder, "items"), find_table(folder, "users")]
    )


def _read_table(path: Path, reading: Reading) -> RawData:
    whole = path.is_file() or is_table_folder(path)
    interactions = path if whole else _interactions(path)
    if interactions is None:
        raise _unknown(path, reading.config, reading.profile)
    items = reading.config.items
    if items is not None and not items.expanduser().exists():
        raise DataError(f"prepare.items={items} does not exist; name a table of items: {KINDS}")
    found, users = (None if whole else find_table(path, name) for name in ("items", "users"))
    return read_table(interactions, items.expanduser() if items else found, users, reading)


def _is_amazon(release: str, path: Path) -> bool:
    if not any(file.name.endswith(JSON_SUFFIXES) for file in _files(path)):
        return False
    return detect_release(_amazon_files(path)[0]) == release


def _read_amazon(release: str, path: Path, reading: Reading) -> RawData:
    reviews, metadata = _amazon_files(path)
    return read_amazon(reviews, metadata, RELEASES[release], reading)


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


def _files(path: Path) -> list[Path]:
    """A file itself, or the visible files of a folder."""
    files = [path] if path.is_file() else path.iterdir()
    return sorted(file for file in files if file.is_file() and not file.name.startswith("."))


def _unknown(path: Path, config: PrepareConfig, profile: Profile) -> DataError:
    """The refusal of a source in no known format, whose tables are added to the profile."""
    for entry in sorted(path.iterdir()) if path.is_dir() else ():
        if entry.name[0] not in "._" and (is_table_file(entry) or is_table_folder(entry)):
            with suppress(DataError, ConfigError):  # a file that is no table
                table = Table(entry, Layout(config.separator), Rejects(0))
                note_table(profile, UNKNOWN, table, {}, others="ignored")
    if path.is_file():
        return DataError(f"{path} is in no known format; needed: {accepted()}; prepare.kind={TABLE} reads it as text")
    names = [
        f"{entry.name}/" if entry.is_dir() else entry.name for entry in sorted(path.iterdir()) if entry.name[0] != "."
    ]
    found = ", ".join(names[:_NAMED_FILES]) + (", ..." if len(names) > _NAMED_FILES else "")
    return DataError(
        f"{path} is in no known format (found {found or 'an empty folder'}); needed: {accepted()}; or name a table by "
        "prepare.source and the one of items by prepare.items"
    )


SOURCES: dict[str, SourceFormat] = {
    TABLE: SourceFormat(f"interactions and items as {KINDS}", _is_table, _read_table),
    "movielens": SourceFormat("MovieLens (ratings.dat or ratings.csv)", is_movielens, read_movielens),
    **{
        name: SourceFormat(
            "raw Amazon reviews (*.json.gz, *.jsonl.gz)", partial(_is_amazon, name), partial(_read_amazon, name)
        )
        for name in RELEASES
    },
}
"""Every format of raw data by its name in `prepare.kind`; `auto` tries them in this order."""
