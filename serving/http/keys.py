"""API keys: a JSON file of hashes, each with a name and a scope. A key itself is shown once and never stored.

Reads and writes that file, which only its owner may read.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from recsys.errors import ArtifactError, ConfigError
from recsys.files import read_json, write_json

log = logging.getLogger(__name__)

Scope = Literal["read", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "admin")
PREFIX = "rsk_"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
HASH = re.compile(r"[0-9a-f]{64}")
CHECK_SECONDS = 1.0  # between two looks at the file


class Key(NamedTuple):
    """One key: `hash` is the SHA-256 of the token, `created` an ISO date. The scope `admin` includes `read`."""

    name: str
    scope: Scope
    hash: str
    created: str

    def allows(self, scope: Scope) -> bool:
        """Whether this key has a scope."""
        return self.scope == "admin" or scope == "read"


class Keys:
    """The keys of a file, reloaded within a second of a change; an invalid file leaves them as they were."""

    def __init__(self, keys: Sequence[Key], path: Path | None = None) -> None:
        """With given keys; see `load`."""
        self._keys = tuple((key, bytes.fromhex(key.hash)) for key in keys)
        self._path = path
        self._seen, self._checked = _stamp(path), time.monotonic()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of keys.

        Raises:
            ArtifactError: it is missing or holds something else.
        """
        if not path.exists():
            raise ArtifactError(
                f"{path} is missing; create a key with `recsys keys create --keys {path} --name NAME --scope read`"
            )
        return cls(_read(path), path)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter([key for key, _ in self._keys])

    def match(self, token: bytes) -> Key | None:
        """The key of a token, None where it is invalid: all keys are compared, each in constant time."""
        self._refresh()
        digest, found = hashlib.sha256(token).digest(), None
        for key, expected in self._keys:
            if hmac.compare_digest(digest, expected):
                found = key
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._checked < CHECK_SECONDS:
            return
        self._checked, stamp = now, _stamp(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = tuple((key, bytes.fromhex(key.hash)) for key in _read(self._path))
        except ArtifactError as error:
            log.warning("the key file was not reloaded: %s", error)


def create_key(path: Path, name: str, scope: str) -> str:
    """Add a key to a file, which is created where it is missing, and return its token, which is not stored.

    Raises:
        ConfigError: the name is taken or invalid, or the scope is unknown.
        ArtifactError: the file holds something else.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"name: got {name!r}, 1 to 64 letters, digits, '.', '_' or '-' are allowed")
    if scope not in SCOPES:
        raise ConfigError(f"scope: got {scope!r}, allowed are {', '.join(SCOPES)}")
    token = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with _locked(path):
        keys = _read(path) if path.exists() else []
        if any(key.name == name for key in keys):
            raise ConfigError(f"name: {name!r} is taken; revoke it first or choose another")
        digest = hashlib.sha256(token.encode()).hexdigest()
        _write(path, [*keys, Key(name, scope, digest, created)])
    return token


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from a file; a running endpoint refuses it within a second.

    Raises:
        ConfigError: there is no such key.
        ArtifactError: the file is missing or holds something else.
    """
    with _locked(path):
        keys = list(Keys.load(path))
        if all(key.name != name for key in keys):
            raise ConfigError(f"name: no key {name!r}; there are {', '.join(key.name for key in keys) or 'none'}")
        _write(path, [key for key in keys if key.name != name])


def _read(path: Path) -> list[Key]:
    try:
        entries = read_json(path).get("keys")
    except ArtifactError as error:
        raise ArtifactError(f"{path} cannot be read as keys ({error.__cause__}); create it again") from error
    if not isinstance(entries, list):
        raise ArtifactError(f"{path} is no key file: it needs a list 'keys'; create it with `recsys keys create`")
    return [_key(entry, path) for entry in entries]


def _key(entry: Any, path: Path) -> Key:
    values = entry if isinstance(entry, dict) else {}
    name, scope, digest, created = (str(values.get(field, "")) for field in Key._fields)
    if scope not in SCOPES or not HASH.fullmatch(digest) or not NAME.fullmatch(name):
        raise ArtifactError(f"{path}: a key needs a name, a scope ({', '.join(SCOPES)}) and a SHA-256; create it again")
    return Key(name, scope, digest, created)


def _write(path: Path, keys: Sequence[Key]) -> None:
    write_json(path, {"keys": [key._asdict() for key in keys]})
    path.chmod(0o600)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, by a lock on the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
