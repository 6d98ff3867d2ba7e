"""Downloads are retried, resumed, verified and atomic."""

import hashlib
from pathlib import Path

import pytest

from recsys.data.download import Retry, download
from recsys.errors import DataError
from tests.data.conftest import Server

QUICK = Retry(attempts=4, pause=0.001, timeout=5)
CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_a_server_that_fails_twice_is_retried(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.failures = CONTENT, 2
    path = download(f"{server.url}/a.bin", tmp_path / "new", sha256=SHA256, retry=QUICK)
    assert path.read_bytes() == CONTENT
    assert len(server.ranges) == 3


def test_a_broken_transfer_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.cuts = CONTENT, 2
    path = download(f"{server.url}/a.bin", tmp_path, sha256=SHA256, retry=QUICK)
    half = len(CONTENT) // 2
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_partial_download_survives_giving_up(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.cuts = CONTENT, 1
    with pytest.raises(DataError, match="attempt 1"):
        download(f"{server.url}/a.bin", tmp_path, retry=Retry(attempts=1))
    assert not (tmp_path / "a.bin").exists()
    download(f"{server.url}/a.bin", tmp_path, sha256=SHA256, retry=QUICK)
    assert server.ranges[-1] == f"bytes={len(CONTENT) // 2}-"


def test_a_wrong_sha256_is_refused_and_nothing_is_published(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    with pytest.raises(DataError, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        download(f"{server.url}/a.bin", tmp_path, sha256="0" * 64, retry=QUICK)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_not_retried(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        download(f"{server.url}/none.bin", tmp_path, retry=QUICK)
    assert len(server.ranges) == 1


def test_an_existing_file_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert download(f"{server.url}/a.bin", tmp_path, sha256=SHA256) == tmp_path / "a.bin"
    assert server.ranges == []
