"""Authentication and authorization: a request's headers against the host name, the API keys and their rate limits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

from serving.config import ServeConfig
from serving.http.errors import Events, error_events
from serving.http.keys import Keys, Scope

ADMIN = ("/admin/", "/v1/users/")
PAGE = ("/", "/favicon.ico")
PAGE_FOLDER = "/page/"
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
ANONYMOUS = "anonymous"  # the rate limit's name for all requests where there are no keys


class AuthHeaders(NamedTuple):
    """The headers that admission reads: declared length of the body, API key, host and origin."""

    length: int
    token: bytes | None
    host: bytes
    origin: bytes

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Self:
        """From ASGI headers, whose names are lower case. An invalid length counts as too long."""
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
    """Decides by path and headers. Without keys, only this machine is allowed (no DNS rebinding, no other origin)."""

    def __init__(self, config: ServeConfig, keys: Keys | None) -> None:
        """With the API keys, if any, and the rate limits of the configuration."""
        self._keys = keys
        self._hosts = LOOPBACK | {config.host.lower().encode(), f"[{config.host.lower()}]".encode()}
        self._rates = RateLimiter(config.rate_per_minute, config.rate_burst) if config.rate_per_minute else None
        self._no_key = error_events(
            401, "unauthorized", "a valid API key is needed; send it as 'Authorization: Bearer KEY'"
        )
        self._wrong_scope = error_events(403, "forbidden", "a key of the scope admin is needed, this one can only read")
        self._not_local = error_events(
            403,
            "forbidden",
            "without keys only requests from this machine to localhost or 127.0.0.1 are allowed; create a key",
        )

    def refusal(self, path: str, headers: AuthHeaders) -> Events | None:
        """The error of a request that is not allowed; None where it is."""
        if self._keys is None and not self._is_local(headers):
            return self._not_local
        scope = needed_scope(path)
        if scope is None:
            return None
        name = ANONYMOUS
        if self._keys is not None:
            key = self._keys.match(headers.token) if headers.token else None
            if key is None:
                return self._no_key
            if not key.allows(scope):
                return self._wrong_scope
            name = key.name
        wait = self._rates.take(name) if self._rates else 0.0
        if not wait:
            return None
        message = "too many requests with this key; wait before the next"
        return error_events(429, "rate_limited", message, retry_after=wait + random.random())

    def _is_local(self, headers: AuthHeaders) -> bool:
        local = not headers.host or _name(headers.host) in self._hosts
        return local and (not headers.origin or headers.origin.split(b"://")[-1] == headers.host)


def needed_scope(path: str) -> Scope | None:
    """The scope that a path needs; None for the page's files."""
    if path in PAGE or path.startswith(PAGE_FOLDER):
        return None
    return "admin" if path.startswith(ADMIN) else "read"


def _name(host: bytes) -> bytes:
    """A host without its port."""
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host


class RateLimiter:
    """A token bucket per name: `per_minute` requests on average, `burst` at once. Not thread-safe."""

    def __init__(self, per_minute: int, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._per_second, self._burst, self._clock = per_minute / 60, float(burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, and when that was

    def take(self, name: str) -> float:
        """Take one token; returns 0 where the request is allowed, else the seconds until the next token."""
        now = self._clock()
        left, before = self._buckets.get(name, (self._burst, now))
        left = min(self._burst, left + (now - before) * self._per_second)
        allowed = left >= 1
        self._buckets[name] = (left - allowed, now)
        return 0.0 if allowed else (1 - left) / self._per_second
