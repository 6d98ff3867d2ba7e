"""Who asks, and whether they may: the headers of a request against the host's name, the keys and their rates."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple, Self

from serving.config import ServeConfig
from serving.http.errors import Events, error_events
from serving.http.keys import Keys, Scope
from serving.http.rate_limit import RateLimiter

ADMIN = ("/admin/", "/v1/users/")
PAGE = ("/", "/favicon.ico")
PAGE_FOLDER = "/page/"
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
ANYBODY = "anybody"  # the bucket of all requests where there are no keys


class AuthHeaders(NamedTuple):
    """What admission looks at: the declared length of the body, and who asks what host."""

    length: int
    token: bytes | None
    host: bytes
    origin: bytes

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Self:
        """From ASGI headers, whose names are lower case. A length that is no number counts as too long."""
        length, token, host, origin = 0, None, b"", b""
        for name, value in headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 20 else 1 << 62
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                token = value[7:].strip()
            elif name == b"x-api-key":
                token = token or value
            elif name == b"host":
                host = value.lower()
            elif name == b"origin":
                origin = value.lower()
        return cls(length, token, host, origin)


class Authenticator:
    """Decides by path and heading. Without keys, only pages of this machine may ask (no rebinding, no other origin)."""

    def __init__(self, config: ServeConfig, keys: Keys | None) -> None:
        """With the keys, if any, and the rates of the configuration."""
        self._keys = keys
        self._hosts = LOOPBACK | {config.host.lower().encode(), f"[{config.host.lower()}]".encode()}
        self._rates = RateLimiter(config.rate_per_minute, config.rate_burst) if config.rate_per_minute else None
        self._no_key = error_events(
            401, "unauthorized", "a valid API key is needed; send it as 'Authorization: Bearer KEY'"
        )
        self._low_key = error_events(403, "forbidden", "this key may only read; a key of the scope admin is needed")
        self._foreign = error_events(
            403,
            "forbidden",
            "without keys only this machine may ask, as localhost or 127.0.0.1; make a key to be asked",
        )

    def refusal(self, path: str, heading: AuthHeaders) -> Events | None:
        """The answer to who may not ask this; None where they may."""
        if self._keys is None and not self._is_local(heading):
            return self._foreign
        scope = needed_scope(path)
        if scope is None:
            return None
        name = ANYBODY
        if self._keys is not None:
            key = self._keys.match(heading.token) if heading.token else None
            if key is None:
                return self._no_key
            if not key.allows(scope):
                return self._low_key
            name = key.name
        wait = self._rates.take(name) if self._rates else 0.0
        return _too_often(wait) if wait else None

    def _is_local(self, heading: AuthHeaders) -> bool:
        own = not heading.host or _name(heading.host) in self._hosts
        return own and (not heading.origin or heading.origin.split(b"://")[-1] == heading.host)


def needed_scope(path: str) -> Scope | None:
    """The scope that a path asks of a key; None for the page's own files."""
    if path in PAGE or path.startswith(PAGE_FOLDER):
        return None
    return "admin" if path.startswith(ADMIN) else "read"


def _name(host: bytes) -> bytes:
    """A host without its port."""
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host


def _too_often(wait: float) -> Events:
    """429, to be tried again at slightly different times."""
    seconds = wait + random.random()
    return error_events(
        429, "rate_limited", "too many requests with this key; wait before the next", retry_after=seconds
    )
