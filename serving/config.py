"""Configuration of the endpoint: address, admission limits, and where histories, item updates and keys are stored."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from recsys.config import Config


class ServeConfig(Config):
    """Options of `recsys serve`; on addresses other than loopback it needs keys."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="0 picks a free one")
    max_in_flight: int = Field(192, ge=1, description="concurrent requests; more are refused with 503, unread")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="of one request; more is refused with 413")
    body_seconds: float = Field(10.0, gt=0, description="time a client has to send a body, then 408")
    header_seconds: float = Field(10.0, gt=0, description="time a client has to send the headers, then it is closed")
    keep_alive_seconds: int = Field(30, ge=1, description="after which an idle connection is closed")
    deadline_ms: int = Field(2000, ge=1, description="default of a request")
    max_deadline_ms: int = Field(60_000, ge=1, description="upper bound of a request's deadline_ms")
    drain_seconds: float = Field(30.0, gt=0, description="time for requests in flight after SIGTERM")
    rate_per_minute: int = Field(0, ge=0, description="requests per key, then 429; 0 for no limit")
    rate_burst: int = Field(20, ge=1, description="burst of one key, where the rate is limited")
    store: str = Field(
        "sqlite:///histories.sqlite",
        pattern=r"^(sqlite:///|rediss?://|unix://).+$",
        description="users' histories: sqlite:///PATH, redis://HOST:PORT/DB or unix://SOCKET",
    )
    history_limit: int = Field(1000, ge=1, le=1000, description="most recent items kept per user")
    item_updates: Path | None = Field(
        None, description="SQLite file that keeps live item updates over restarts; without it they end with the process"
    )
    keys: Path | None = Field(None, description="file of hashed API keys; without it all is allowed")

    @model_validator(mode="after")
    def _deadlines_in_order(self) -> ServeConfig:
        if self.deadline_ms > self.max_deadline_ms:
            raise ValueError(
                f"deadline_ms: got {self.deadline_ms}, at most max_deadline_ms={self.max_deadline_ms} is allowed"
            )
        return self
