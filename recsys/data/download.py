"""Downloads over http: resumed, retried with exponential backoff, verified, and renamed when complete.

Writes FOLDER/NAME, and FOLDER/.NAME.part while it is incomplete.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from recsys.errors import DataError
from recsys.files import file_sha256
from recsys.tracking import NullTracker, Tracker

CHUNK = 1 << 18
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
RETRIED = (408, 425, 429, 500, 502, 503, 504)

logger = logging.getLogger(__name__)


class Retry(NamedTuple):
    """Number of attempts, seconds of the first pause (doubled each time), and read timeout in seconds."""

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 30.0


DEFAULT_RETRY = Retry()


def download(
    url: str, folder: Path, *, sha256: str | None = None, retry: Retry = DEFAULT_RETRY, tracker: Tracker | None = None
) -> Path:
    """Download a file into `folder` and return its path; an existing file is only verified.

    Raises:
        DataError: the download fails, or its sha256 differs.
    """
    name = unquote(Path(urlparse(url).path).name)
    if not name:
        raise DataError(f"{url} names no file; give the URL of a file")
    target, part = folder / name, folder / f".{name}.part"
    if target.exists():
        _verify(target, url, sha256)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, retry.attempts + 1):
        try:
            _transfer(url, part, timeout=retry.timeout, tracker=tracker or NullTracker())
            break
        except (OSError, http.client.HTTPException) as error:
            if not _is_transient(error) or attempt == retry.attempts:
                raise DataError(
                    f"{url} cannot be downloaded ({error}; attempt {attempt}); run again later to resume, "
                    "or download it otherwise and set prepare.source"
                ) from error
            pause = retry.pause * 2 ** (attempt - 1)
            logger.warning("%s: %s; attempt %d of %d in %g s", url, error, attempt + 1, retry.attempts, pause)
            time.sleep(pause)
    try:
        _verify(part, url, sha256)
    except DataError:
        part.unlink()  # a complete but wrong file must not be resumed
        raise
    part.replace(target)
    return target


def _transfer(url: str, part: Path, *, timeout: float, tracker: Tracker) -> None:
    """Append the missing bytes to `part`, or start over if the server does not support ranges."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            resumed = response.status == PARTIAL_CONTENT
            length = int(response.headers.get("Content-Length") or -1)
            total = -(-length // CHUNK) if length >= 0 else None
            received = 0
            with part.open("ab" if resumed else "wb") as file:
                chunks = iter(partial(response.read, CHUNK), b"")
                for chunk in tracker.track(chunks, f"downloading {part.name[1:-5]}", total):
                    received += file.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE:
            part.unlink()  # the file on the server has changed
        raise
    if 0 <= received < length:
        raise ConnectionError(f"the connection closed after {received} of {length} bytes")


def _is_transient(error: Exception) -> bool:
    """Whether a retry may help."""
    return not isinstance(error, urllib.error.HTTPError) or error.code in (*RETRIED, RANGE_NOT_SATISFIABLE)


def _verify(path: Path, url: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = file_sha256(path)
    if found != sha256.lower():
        raise DataError(
            f"{path}, from {url}: sha256 is {found}, expected {sha256.lower()}; "
            "correct the sha256 or the URL, remove the file and run again"
        )
