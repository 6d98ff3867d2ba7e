"""The fallback ladder: how much tier a batch gets, from what each tier has cost and how much time is left.

`Cost` learns the seconds of a batch from its size, `Arrivals` how many requests come; `Ladder` chooses the best tier
that answers in time, counts failures, and leaves out a tier that fails again and again. One ladder belongs to one
engine and to one thread. Reads and writes no files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import Field

from recsys.config import Config
from serving.engine.interface import Tier

WEIGHT = 0.2  # of the newest observation
STALL = 4.0  # one batch that takes more than so many times the estimate counts as this many: it may have been a stall
STALL_SECONDS = 0.05  # and by how much more, so that estimates of nearly nothing can grow
SPREADS = 2.0  # mean deviations that are added to the estimate of a batch that has a deadline
STRAIN = 2.0  # times the usual cost is expected while a ladder is strained
PATIENCE = 32  # times the configured number of skips, at most
FASTER = 1.5  # times a batch's own size must arrive during it before it counts as too slow for what comes
WORTH = 10  # so many answers may be made cheaper to save one that waits from expiring


class LadderConfig(Config):
    """When a cheaper tier is used."""

    reserve_ms: float = Field(default=5.0, ge=0, description="kept of every deadline to send the answer")
    backlog_share: float = Field(
        default=0.25, gt=0, le=1, description="share of the time left in which those who wait should be answered"
    )
    retry_skips: int = Field(
        default=32, ge=1, description="batches after which a tier thought too slow is retried, if nobody waits"
    )
    retry_seconds: float = Field(default=5.0, ge=0, description="and the time that must have passed since it was used")
    failures: int = Field(default=3, ge=1, description="failures in a row after which a tier is left out")
    pause_seconds: float = Field(default=10.0, gt=0, description="for how long; then one batch tries it again")


class Cost:
    """A running estimate of the seconds of a batch as a line over its size; zero, which is hope, before the first.

    Mean, variance and covariance are exponentially weighted. Where the sizes have hardly varied, half of the time is
    taken to be fixed and half to grow with the size.
    """

    def __init__(self) -> None:
        self.seen = False
        self._size = self._seconds = self._variance = self._covariance = self._deviation = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from one batch."""
        if not self.seen:
            self.seen, self._size, self._seconds = True, float(size), seconds
            return
        expected = self.mean(size)
        believed = min(seconds, STALL * expected + STALL_SECONDS)
        self._deviation += WEIGHT * (abs(believed - expected) - self._deviation)
        by_size, by_seconds = size - self._size, believed - self._seconds
        self._size += WEIGHT * by_size
        self._seconds += WEIGHT * by_seconds
        self._variance = (1 - WEIGHT) * (self._variance + WEIGHT * by_size**2)
        self._covariance = (1 - WEIGHT) * (self._covariance + WEIGHT * by_size * by_seconds)

    def mean(self, size: int) -> float:
        """Expected seconds of a batch."""
        if not self.seen:
            return 0.0
        proportional = self._seconds / self._size
        prior = (0.25 * self._size) ** 2  # a variance; it outweighs sizes that differ by less
        slope = (self._covariance + prior * proportional / 2) / (self._variance + prior)
        return self._seconds + min(max(slope, 0.0), proportional) * (size - self._size)

    def cautious(self, size: int) -> float:
        """Seconds that a batch seldom exceeds."""
        return self.mean(size) + SPREADS * self._deviation


class Arrivals:
    """Requests a second, about the last second; `count` is written by one thread and `rate` called by another one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._count, self._told, self._rate = clock, 0, 0, 0.0
        self._since = clock()

    def count(self) -> None:
        """A request came."""
        self._count += 1

    def rate(self) -> float:
        """How many a second come at present."""
        count, now = self._count, self._clock()
        if now > self._since:
            weight = -math.expm1(self._since - now)
            self._rate += weight * ((count - self._told) / (now - self._since) - self._rate)
            self._told, self._since = count, now
        return self._rate


class Choice(NamedTuple):
    """What to do next: these members of the batch (their places) at this tier, and why it is not the best one."""

    tier: Tier
    members: list[int]
    reason: str | None


class _Rung:
    """What is known of one tier."""

    def __init__(self) -> None:
        self.cost = Cost()
        self.used = float("-inf")  # when, by the ladder's clock
        self.skips = 0
        self.patience = 1  # a multiple of the configured skips; every retry in vain doubles it
        self.retrying = False
        self.failures = 0
        self.paused_until = float("-inf")
        self.error = ""


class Ladder:
    """Chooses tiers, the best first; the last one always answers, whatever it costs.

    `room` is how many requests may wait; more would be refused. Set `strained`, from any thread, while something else
    competes for the processors: costs are then taken for higher.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        config: LadderConfig | None = None,
        *,
        room: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._room, self._clock = config or LadderConfig(), room, clock
        self._rungs: dict[Tier, _Rung] = {tier: _Rung() for tier in tiers}
        self._last = tiers[-1]
        self.strained = False

    def choose(self, left: Sequence[float], waiting: Sequence[Sequence[float]], *, rate: float = 0.0) -> Choice:
        """The next part of a batch and its tier; ask again for the members that are not in it.

        Members with little time left are answered first and more cheaply, the others after them.

        Args:
            left: seconds that each member of the batch has.
            waiting: seconds that each request behind the batch has, in the batches that they will make.
            rate: requests a second that come.
        """
        members, reason = list(range(len(left))), None
        for tier, rung in self._rungs.items():
            if tier == self._last:
                break
            if rung.paused_until > self._clock():
                reason = reason or f"failure: {rung.error}"
                continue
            if self._keeps_up(tier, [left[member] for member in members], waiting, rate):
                why, tight = "deadline", self._tight(rung, members, left)
            else:
                why, tight = "queue", members
            if not tight or self._retries(rung, alone=not waiting):
                return Choice(tier, members, reason)
            members = tight
            reason = reason or why
        if reason == "queue" and (turn := self._turn(members, left, waiting, rate)):
            rest = [member for member in members if member not in turn.members]
            return Choice(self._last, rest, reason) if rest else turn  # the hurried first
        return Choice(self._last, members, reason)

    def observe(self, tier: Tier, size: int, seconds: float) -> None:
        """A batch was answered."""
        rung = self._rungs[tier]
        if not rung.retrying:
            rung.patience = 1
        elif seconds < rung.cost.mean(size) / 2:
            rung.cost = Cost()  # what made it slow is over; its memory would keep it out for long
        else:
            rung.patience = min(2 * rung.patience, PATIENCE)
        rung.cost.observe(size, seconds)
        rung.used, rung.skips, rung.retrying, rung.failures = self._clock(), 0, False, 0

    def failed(self, tier: Tier, error: Exception) -> None:
        """An tier failed; after several in a row it is left out for some seconds, then one batch tries it."""
        rung = self._rungs[tier]
        rung.failures, rung.retrying, rung.error = rung.failures + 1, False, type(error).__name__
        if rung.failures >= self._config.failures:
            rung.paused_until = self._clock() + self._config.pause_seconds

    def below(self, tier: Tier) -> Tier | None:
        """The next cheaper tier that is not left out, None below the last."""
        tiers = list(self._rungs)
        for cheaper in tiers[tiers.index(tier) + 1 :]:
            if cheaper == self._last or self._rungs[cheaper].paused_until <= self._clock():
                return cheaper
        return None

    def _tight(self, rung: _Rung, members: Sequence[int], left: Sequence[float]) -> list[int]:
        """Members that the rung would answer too late."""
        if not rung.cost.seen:
            return []
        need = rung.cost.cautious(len(members)) * self._strain() + self._config.reserve_ms / 1000
        return [member for member in members if left[member] < need]

    def _retries(self, rung: _Rung, *, alone: bool) -> bool:
        """Whether it is time to find out if a rung is still too slow; never while others wait."""
        rung.skips += 1
        rested = self._clock() - rung.used >= self._config.retry_seconds
        rung.retrying = alone and rested and rung.skips > self._config.retry_skips * rung.patience
        return rung.retrying

    def _keeps_up(self, tier: Tier, left: Sequence[float], waiting: Sequence[Sequence[float]], rate: float) -> bool:
        """Whether too few of those who wait or will come would suffer to make this batch cheaper for them."""
        cost, cheapest = self._rungs[tier].cost, self._rungs[self._last].cost
        size, behind = len(left), sum(map(len, waiting))
        share = self._config.backlog_share / self._strain()
        seconds, fast = cost.mean(size), cheapest.mean(size)
        coming = rate * seconds
        late = max(0.0, behind + coming - self._room)
        if coming > FASTER * size and sorted(left)[size // 2] * share < seconds:
            late = max(late, coming)
        for batch in waiting:
            seconds += cost.mean(len(batch))
            fast += cheapest.mean(len(batch))
            late += sum(fast <= each and each * share < seconds for each in batch)
        return late * WORTH <= size + behind + coming

    def _turn(
        self, members: Sequence[int], left: Sequence[float], waiting: Sequence[Sequence[float]], rate: float
    ) -> Choice | None:
        """The best tier for some of the last of those that wait, where all can have the cheapest only.

        Those before them are answered at once and cheaply; a large batch at the best tier then makes the most of the
        time until the queue fills again. Without it nobody would get that tier any more.
        """
        if any(len(batch) >= len(members) for batch in waiting):
            return None
        patient = sorted(members, key=lambda member: -left[member])
        best = next(iter(self._rungs))
        for tier, rung in self._rungs.items():
            if tier == self._last or rung.paused_until > self._clock():
                continue
            for count in range(len(members), 0, -1):
                few = patient[:count]
                if not self._tight(rung, few, left) and self._harmless(rung.cost, count, waiting, rate):
                    return Choice(tier, sorted(few), None if tier == best else "queue")
        return None

    def _harmless(self, cost: Cost, size: int, waiting: Sequence[Sequence[float]], rate: float) -> bool:
        """Whether a batch loses too few of those behind it, who are answered at the cheapest cost, to matter."""
        cheapest = self._rungs[self._last].cost
        seconds, fast = cost.mean(size) * self._strain(), cheapest.mean(size)
        late = max(0.0, sum(map(len, waiting)) + rate * seconds - self._room)
        for batch in waiting:
            seconds += cheapest.mean(len(batch))
            fast += cheapest.mean(len(batch))
            late += sum(fast <= each < seconds for each in batch)
        return late * WORTH <= size

    def _strain(self) -> float:
        return STRAIN if self.strained else 1.0
