"""API keys: stored as hashes, created and revoked while the endpoint runs; and their rate limits."""

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys.errors import ArtifactError, ConfigError
from serving.http import keys as keys_module
from serving.http.auth import RateLimiter
from serving.http.keys import PREFIX, Keys, create_key, revoke_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keys.json"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """ItemUpdates of the file are looked for by every match."""
    monkeypatch.setattr(keys_module, "CHECK_SECONDS", 0.0)


def test_a_key_is_known_by_its_token_alone(path: Path) -> None:
    tokens = {name: create_key(path, name, "admin" if name == "boss" else "read") for name in ("ann", "boss", "cid")}
    keys = Keys.load(path)
    for name, token in tokens.items():
        assert token.startswith(PREFIX)
        assert len(token) == len(PREFIX) + 43
        found = keys.match(token.encode())
        assert found is not None
        assert (found.name, found.allows("read"), found.allows("admin")) == (name, True, name == "boss")
        assert token not in path.read_text(encoding="utf-8")
    assert [key.name for key in keys] == ["ann", "boss", "cid"]


@pytest.mark.parametrize(
    "change", [lambda t: b"", lambda t: t[:-1], lambda t: t + b"x", lambda t: b"\xff\x00", bytes.upper]
)
def test_nothing_but_the_token_is_a_key(path: Path, change: Callable[[bytes], bytes]) -> None:
    token = create_key(path, "ann", "read").encode()
    keys = Keys.load(path)
    assert keys.match(change(token)) is None
    (key,) = keys
    assert keys.match(key.hash.encode()) is None


def test_the_file_is_its_owners(path: Path) -> None:
    create_key(path, "ann", "read")
    create_key(path, "bob", "read")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    revoke_key(path, "ann")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("at_once")
def test_a_running_endpoint_notices_new_and_revoked_keys(path: Path) -> None:
    first = create_key(path, "ann", "read").encode()
    keys = Keys.load(path)
    second = create_key(path, "bob", "read").encode()
    assert keys.match(second) is not None
    revoke_key(path, "ann")
    assert keys.match(first) is None
    assert keys.match(second) is not None


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{"), lambda path: path.write_text("{}")])
def test_a_file_that_breaks_changes_nothing(
    path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    token = create_key(path, "ann", "read").encode()
    keys = Keys.load(path)
    damage(path)
    assert keys.match(token) is not None
    assert keys.match(token) is not None
    assert caplog.text.count("the key file was not reloaded") == 1


@pytest.mark.parametrize(
    ("name", "scope", "words"),
    [
        ("ann", "read", "is taken"),
        ("", "read", "1 to 64 letters"),
        ("a b", "read", "1 to 64 letters"),
        ("x" * 65, "read", "1 to 64 letters"),
        ("bob", "write", "allowed are read, admin"),
    ],
)
def test_a_key_that_cannot_be_is_refused(path: Path, name: str, scope: str, words: str) -> None:
    create_key(path, "ann", "read")
    with pytest.raises(ConfigError, match=words):
        create_key(path, name, scope)
    assert len(Keys.load(path)) == 1


def test_only_a_key_that_is_there_can_be_revoked(path: Path) -> None:
    create_key(path, "ann", "read")
    with pytest.raises(ConfigError, match="no key 'bob'; there are ann"):
        revoke_key(path, "bob")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "recsys keys create"),
        ("{", "cannot be read as keys"),
        ("[]", "cannot be read as keys"),
        ("{}", "is no key file"),
        ('{"keys": [1]}', "a key needs a name"),
        ('{"keys": [{"name": "a", "scope": "all", "hash": "00"}]}', "a key needs a name"),
        ('{"keys": [{"name": "a", "scope": "read", "hash": "00"}]}', "a key needs a name"),
    ],
)
def test_a_file_of_something_else_is_refused(path: Path, text: str | None, words: str) -> None:
    path.parent.mkdir()
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=words):
        Keys.load(path)


def test_keys_made_at_once_are_all_kept(path: Path) -> None:
    names = [f"key-{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda name: create_key(path, name, "read"), names))
    keys = Keys.load(path)
    found = [keys.match(token.encode()) for token in tokens]
    assert [key.name for key in found if key is not None] == names


def test_a_bucket_empties_refills_and_belongs_to_one_name() -> None:
    now = 100.0
    rates = RateLimiter(60, 3, clock=lambda: now)
    assert [rates.take("ann") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert rates.take("ann") == pytest.approx(1.0)
    assert rates.take("bob") == 0.0
    now += 0.5
    assert rates.take("ann") == pytest.approx(0.5), "being refused costs nothing"
    now += 0.5
    assert rates.take("ann") == 0.0
    now += 1000
    assert [rates.take("ann") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert rates.take("ann") > 0, "waiting long earns no more than the burst"
