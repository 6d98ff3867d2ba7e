"""Local cache of downloaded bundles: one folder per bundle id, written atomically and verified on every use."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from recsys.errors import ArtifactError
from serving.bundle.bundle import open_bundle

_BUNDLE_ID = re.compile(r"[0-9a-f]{16}")

logger = logging.getLogger(__name__)


def default_cache() -> Path:
    """The user's cache folder of bundles."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recsys" / "bundles"


def cached(cache: Path, bundle: str, fetch: Callable[[Path], Path]) -> Path:
    """The folder of a bundle id, downloaded where it is not in the cache.

    `fetch` downloads into an empty folder, and returns the bundle's path in it.

    Raises:
        ArtifactError: the id is invalid, or the download is damaged or another bundle.
    """
    if not _BUNDLE_ID.fullmatch(bundle):
        raise ArtifactError(f"{bundle[:100]!r} is no bundle id (16 hex digits); publish the bundle again")
    target = cache / bundle
    if _is_cached(target):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as work:
        fetched = open_bundle(fetch(Path(work)))
        if fetched.id != bundle:
            raise ArtifactError(f"expected bundle {bundle}, downloaded {fetched.id}; publish it again")
        if not _is_cached(target):  # another process may have been faster
            fetched.folder.rename(target)
    return target


def _is_cached(folder: Path) -> bool:
    """Whether the cache has a bundle; a damaged one is removed."""
    if not folder.exists():
        return False
    try:
        if open_bundle(folder).id == folder.name:
            return True
        logger.warning("%s is another bundle; it is downloaded again", folder)
    except ArtifactError as error:
        logger.warning("%s; it is downloaded again", error)
    shutil.rmtree(folder)
    return False
