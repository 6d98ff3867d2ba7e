"""Which engine answers: the current one, the one before it for rollback, and how a new one takes its place.

A new engine is loaded, tested and warmed beside the old one; then one reference is swapped. A bundle that cannot be
loaded or fails its test changes nothing. Reads what `load` reads; writes nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from recsys.errors import ArtifactError, ConfigError, DataError
from serving.engine.interface import Answer, Engine, Request, Tier
from serving.runtime.degradation import Ladder, LadderConfig
from serving.runtime.item_updates import ItemUpdates

K = 10  # items that a test asks for


@dataclass(frozen=True)
class Live:
    """An engine with what has been learned about it; `ladder` and `legal` are used on one thread at a time."""

    engine: Engine
    ladder: Ladder
    bundle: str
    legal: set[str] = field(default_factory=set)

    def checked(self, answer: Answer) -> tuple[Answer, int]:
        """The answer without items that the catalogue does not have or that are withdrawn, and their number."""
        bad = {item.item_id for item in answer.items if not self._is_legal(item.item_id)}
        if not bad:
            return answer, 0
        kept = tuple(item for item in answer.items if item.item_id not in bad)
        return replace(answer, items=kept), len(answer.items) - len(kept)

    def changed(self) -> None:
        """Items were added or withdrawn."""
        self.legal.clear()

    def _is_legal(self, item_id: str) -> bool:
        if item_id in self.legal:
            return True
        try:
            legal = not self.engine.item(item_id).withdrawn
        except DataError:
            return False
        if legal:
            self.legal.add(item_id)
        return legal


class _State(NamedTuple):
    """What is swapped as one."""

    current: Live
    previous: Live | None


class Deployment:
    """The engine in use and its predecessor. Live changes of items are made to whichever comes to answer."""

    def __init__(
        self,
        engine: Engine,
        load: Callable[[str | None], Engine],
        *,
        warm_requests: int,
        changes: ItemUpdates,
        room: int = 256,
        ladder: LadderConfig | None = None,
    ) -> None:
        """Test and warm the first engine, then make the changes to it; at most `room` requests may wait for it.

        Raises:
            ArtifactError: it fails its test.
        """
        self._load, self._warm_requests, self._room, self._ladder = load, warm_requests, room, ladder
        self._changing = threading.Lock()
        self._changes = changes
        self._state = self._settled(self._prepared(lambda: engine, "the first bundle"), None)

    @property
    def current(self) -> Live:
        """The engine that answers; whoever reads it once keeps it, whatever is deployed meanwhile."""
        return self._state.current

    def reload(self, source: str | None) -> Live:
        """Load an engine and let it answer; takes long, and is called beside the inference thread.

        Raises:
            ArtifactError: it cannot be loaded or fails its test; nothing has changed.
            ConfigError: another change is in progress.
        """
        self._begin()
        before = self._state.current
        before.ladder.strained = True  # the new bundle's test competes with its batches
        try:
            fresh = self._prepared(lambda: self._load(source), "the present source" if source is None else source)
            self._changes.replay(fresh.engine)  # most of it before anybody has to wait
            with self._changes.lock:
                self._state = self._settled(fresh, before)
            return fresh
        finally:
            before.ladder.strained = False
            self._changing.release()

    def rollback(self) -> Live:
        """Let the previous engine answer again; the one rolled back from is let go.

        Raises:
            DataError: there is none.
            ConfigError: another change is in progress.
        """
        self._begin()
        try:
            previous = self._state.previous
            if previous is None:
                raise DataError("there is no previous bundle to roll back to; reload the one that is wanted")
            with self._changes.lock:
                self._state = self._settled(previous, None)
            return previous
        finally:
            self._changing.release()

    def _settled(self, live: Live, previous: Live | None) -> _State:
        """With the changes of items that came before; none comes between this and the swap while the lock is held."""
        self._changes.replay(live.engine)
        live.changed()
        return _State(live, previous)

    def _begin(self) -> None:
        if not self._changing.acquire(blocking=False):
            raise ConfigError("a reload is in progress; wait until it has ended and try again")

    def _prepared(self, load: Callable[[], Engine], name: str) -> Live:
        try:
            engine = load()
            live = Live(engine, Ladder(engine.tiers, self._ladder, room=self._room), engine.info.bundle)
            if self._warm_requests:
                _warm(live, self._warm_requests)
        except ArtifactError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or "no reason given"
            raise ArtifactError(
                f"{name} cannot be served ({type(error).__name__}: {reason}); bundle the run again, or name another one"
            ) from error
        return live


def _warm(live: Live, count: int) -> None:
    """Answer a few requests at every tier, alone and together, check the answers, and learn what they cost."""
    popular = _tested(live, [Request(k=K)], "popularity")[0]
    if not popular.items:
        raise ArtifactError("the bundle recommends nothing to a new visitor; it has no item, or all are withdrawn")
    ids = tuple(item.item_id for item in popular.items)
    requests = [Request(history=ids[: 1 + place % len(ids)], k=K, user=f"warm-{place}") for place in range(count)]
    for tier in live.engine.tiers:
        for batch in ([Request(k=K)], requests):
            _tested(live, batch, tier)  # the first time reads pages and fills caches
            begun = time.monotonic()
            _tested(live, batch, tier)
            live.ladder.observe(tier, len(batch), time.monotonic() - begun)


def _tested(live: Live, requests: Sequence[Request], tier: Tier) -> list[Answer]:
    answers = live.engine.recommend(requests, tier)
    if len(answers) != len(requests):
        raise ArtifactError(f"the bundle failed its test: {len(answers)} answers to {len(requests)} requests ({tier})")
    for request, answer in zip(requests, answers, strict=True):
        ids = [item.item_id for item in answer.items]
        if live.checked(answer)[1]:
            raise ArtifactError(f"the bundle failed its test: '{tier}' recommends items that it does not have")
        if len(ids) > request.k or len(set(ids)) < len(ids):
            raise ArtifactError(f"the bundle failed its test: '{tier}' recommends too many items, or one twice")
        if not all(math.isfinite(item.score) for item in answer.items):
            raise ArtifactError(f"the bundle failed its test: '{tier}' gives scores that are no numbers")
    return answers
