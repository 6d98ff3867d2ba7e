"""Degradation under load: which tier answers a batch, from what each tier has cost and how much time is left.

`TierSelector` takes the best tier that answers in time and keeps the queue short, and has a circuit breaker for each
tier that fails. One selector belongs to one engine and to one thread. Reads and writes no files.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from recsys.config import Config
from serving.engine.interface import Tier


class DegradationConfig(Config):
    """When a cheaper tier is used."""

    reserve_ms: float = Field(5.0, ge=0, description="kept of every deadline to send the answer")
    margin: float = Field(1.5, ge=1, description="times its average cost, a batch must fit its deadline")
    backlog_share: float = Field(
        0.25, gt=0, le=1, description="share of the time left in which pending requests should be answered"
    )
    hold_seconds: float = Field(0.5, ge=0, description="without a long queue, before smaller batches get a better tier")
    cost_weight: float = Field(0.2, gt=0, le=1, description="of the newest batch in a tier's average cost")
    max_growth: float = Field(4.0, gt=1, description="upper bound of one batch, times its average: it may be a stall")
    retry_seconds: float = Field(5.0, gt=0, description="after which a tier that was too slow is tried, if none waits")
    max_retry_seconds: float = Field(300.0, gt=0, description="to which that time doubles while the tier is too slow")
    failures: int = Field(3, ge=1, description="failures in a row that open a tier's circuit breaker")
    pause_seconds: float = Field(10.0, gt=0, description="for which it stays open; then one batch tries the tier")


class Choice(NamedTuple):
    """The members of a batch (their positions) to answer now, at which tier, and why it is not the best one."""

    tier: Tier
    members: list[int]
    reason: str | None


@dataclass(slots=True)
class _State:
    """What is known of one tier; its average cost is of a batch of the average size."""

    retry_seconds: float
    seconds: float = 0.0
    size: float = 0.0
    last_used: float = float("-inf")
    retrying: bool = False
    failures: int = 0
    paused_until: float = float("-inf")
    error: str = ""

    def cost(self, size: int) -> float:
        """Expected seconds of a batch: half of the average is fixed, half grows with the size. 0 before the first."""
        return self.seconds * (0.5 + 0.5 * size / self.size) if self.size else 0.0


class TierSelector:
    """Chooses tiers, the best first; the last one always answers, whatever it costs."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        config: DegradationConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._clock = config or DegradationConfig(), clock
        self._states: dict[Tier, _State] = {tier: _State(self._config.retry_seconds) for tier in tiers}
        self._last = tiers[-1]
        self._queued_at, self._queued_size = float("-inf"), 0  # of the latest batch with a long queue behind it

    def choose(self, left: Sequence[float], pending: Sequence[Sequence[float]]) -> Choice:
        """The next part of a batch and its tier; call it again for the members that are not in it.

        Members with little time left are answered first and more cheaply, the others after them.

        Args:
            left: seconds until the deadline of each member of the batch.
            pending: the same of each request behind the batch, in the batches that they will make.
        """
        members, reason = list(range(len(left))), None
        for tier, state in self._states.items():
            if tier == self._last:
                break
            if state.paused_until > self._clock():
                reason = reason or f"failure: {state.error}"
                continue
            if self._drains(state, [left[member] for member in members], pending):
                need = state.cost(len(members)) * self._config.margin + self._config.reserve_ms / 1000
                why, late = "deadline", [member for member in members if state.size and left[member] < need]
            else:
                why, late = "queue", members
            if not late:
                return Choice(tier, members, reason)
            if not pending and self._clock() - state.last_used >= state.retry_seconds:
                if len(late) == 1:
                    state.retrying = True
                    return Choice(tier, late, reason)
                late = late[:-1]  # the last one tries the tier alone, after the others have their answers
            members, reason = late, reason or why
        return Choice(self._last, members, reason)

    def observe(self, tier: Tier, size: int, seconds: float) -> None:
        """Learn from a batch that was answered."""
        state, config = self._states[tier], self._config
        expected, weight = state.cost(size), config.cost_weight
        if not expected:
            state.seconds, state.size = seconds, float(size)
        elif state.retrying:  # the average is out of date
            state.seconds *= min(seconds / expected, config.max_growth)
        else:
            state.seconds += weight * (min(seconds, config.max_growth * expected) - state.seconds)
            state.size += weight * (size - state.size)
        state.retry_seconds = (
            min(2 * state.retry_seconds, config.max_retry_seconds) if state.retrying else config.retry_seconds
        )
        state.last_used, state.retrying, state.failures = self._clock(), False, 0

    def failed(self, tier: Tier, error: Exception) -> None:
        """Count a failure; after several in a row the tier is skipped for some seconds, then one batch tries it."""
        state = self._states[tier]
        state.failures, state.retrying, state.error = state.failures + 1, False, type(error).__name__
        if state.failures >= self._config.failures:
            state.paused_until = self._clock() + self._config.pause_seconds

    def below(self, tier: Tier) -> Tier | None:
        """The next cheaper tier whose circuit breaker is closed, None below the last."""
        tiers = list(self._states)
        for cheaper in tiers[tiers.index(tier) + 1 :]:
            if cheaper == self._last or self._states[cheaper].paused_until <= self._clock():
                return cheaper
        return None

    def _drains(self, state: _State, left: Sequence[float], pending: Sequence[Sequence[float]]) -> bool:
        """Whether all pending requests, answered at this tier, would wait for a small share of their time only."""
        if self._clock() - self._queued_at < self._config.hold_seconds and len(left) < self._queued_size:
            return False  # small batches cost most a request, and overload is not over when the queue is empty
        fastest = self._states[self._last].cost(len(left))
        alive = [each for batch in pending for each in batch if each > fastest]
        if not alive:
            return True
        seconds = state.cost(len(left)) + sum(state.cost(len(batch)) for batch in pending)
        if seconds <= self._config.backlog_share * statistics.median_low([*left, *alive]):
            return True
        self._queued_at, self._queued_size = self._clock(), len(left)
        return False
