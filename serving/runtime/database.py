"""Opens the endpoint's SQLite files; what is deleted from one is overwritten with zeros."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from recsys.errors import ConfigError

BUSY_SECONDS = 1.0  # how long a call waits for another process that has locked the file


def open_database(path: Path, schema: str, *, setting: str) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread; the file is created where it is missing, for its owner only.

    `schema` has the statements that create the tables; `setting` is the one that names the file, for the error.

    Raises:
        ConfigError: the file cannot be opened or holds something else.
    """
    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA secure_delete = ON; {schema}")
    except (OSError, sqlite3.Error) as error:
        if connection is not None:
            connection.close()
        raise unusable(setting, path, error) from error
    return connection


def unusable(setting: str, path: Path, error: Exception) -> ConfigError:
    """The error of a file that cannot be opened or holds something else."""
    return ConfigError(f"{setting}: {path} cannot be used ({error}); name a new file, or one that this setting wrote")
