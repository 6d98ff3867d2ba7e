"""Which engine answers: the current one, the previous one for rollback, and how a new one takes over.

A new engine is loaded and warmed beside the current one; then one reference is swapped. A bundle that cannot be loaded
or cannot answer changes nothing. Reads what `load` reads; writes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from recsys.errors import ArtifactError, DataError, RecsysError
from recsys.ranking.notices import removed_items
from serving.engine.interface import Answer, Engine, Request
from serving.runtime.degradation import DegradationConfig, TierSelector
from serving.runtime.item_updates import ItemUpdates

K = 10  # items of a warm-up request


class ReloadInProgressError(RecsysError):
    """Another reload or rollback has not ended yet."""


@dataclass(frozen=True)
class Live:
    """An engine and what was learned about it; `selector` and `known` are used on one thread at a time."""

    engine: Engine
    selector: TierSelector
    bundle: str
    known: set[str] = field(default_factory=set)

    def checked(self, answer: Answer) -> tuple[Answer, int]:
        """The answer without out-of-catalogue and withdrawn items, and their number."""
        removed = [item.item_id for item in answer.items if not self._is_recommendable(item.item_id)]
        if not removed:
            return answer, 0
        kept = tuple(item for item in answer.items if item.item_id not in removed)
        return replace(answer, items=kept, notices=(*answer.notices, removed_items(removed))), len(removed)

    def items_changed(self) -> None:
        """Forget which items can be recommended."""
        self.known.clear()

    def _is_recommendable(self, item_id: str) -> bool:
        if item_id not in self.known:
            try:
                if self.engine.item(item_id).withdrawn:
                    return False
            except DataError:
                return False
            self.known.add(item_id)
        return True


class Deployment:
    """The engine in use and its predecessor; live item updates are applied to whichever takes over."""

    def __init__(
        self,
        engine: Engine,
        load: Callable[[str | None], Engine],
        *,
        warm_requests: int,
        updates: ItemUpdates,
        degradation: DegradationConfig | None = None,
    ) -> None:
        """Warm the first engine, then apply the updates to it.

        Raises:
            ArtifactError: it cannot answer.
        """
        self._load, self._warm_requests, self._degradation = load, warm_requests, degradation
        self._changing = threading.Lock()
        self._updates = updates
        self._previous: Live | None = None
        self._current = self._updated(self._prepared(lambda: engine, "the first bundle"))

    @property
    def current(self) -> Live:
        """The engine that answers; a caller that reads it once keeps it, whatever is deployed meanwhile."""
        return self._current

    def reload(self, source: str | None) -> Live:
        """Load an engine and let it answer; takes long, call it outside the inference thread.

        Raises:
            ArtifactError: it cannot be loaded or cannot answer; nothing has changed.
            ReloadInProgressError: another reload or rollback has not ended.
        """
        self._begin()
        try:
            fresh = self._prepared(lambda: self._load(source), "the present source" if source is None else source)
            self._updates.replay(fresh.engine)  # most of it before the lock is taken
            with self._updates.lock:
                self._previous, self._current = self._current, self._updated(fresh)
            return fresh
        finally:
            self._changing.release()

    def rollback(self) -> Live:
        """Let the previous engine answer again; the one rolled back from is released.

        Raises:
            DataError: there is none.
            ReloadInProgressError: another reload or rollback has not ended.
        """
        self._begin()
        try:
            previous = self._previous
            if previous is None:
                raise DataError("there is no previous bundle to roll back to; reload the bundle you want")
            with self._updates.lock:
                self._previous, self._current = None, self._updated(previous)
            return previous
        finally:
            self._changing.release()

    def _updated(self, live: Live) -> Live:
        """With all item updates applied; none can come between while the lock is held."""
        self._updates.replay(live.engine)
        live.items_changed()
        return live

    def _begin(self) -> None:
        if not self._changing.acquire(blocking=False):
            raise ReloadInProgressError("a reload is in progress; wait until it has ended and try again")

    def _prepared(self, load: Callable[[], Engine], name: str) -> Live:
        try:
            engine = load()
            live = Live(engine, TierSelector(engine.tiers, self._degradation), engine.info.bundle)
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
    """Answer a few requests at every tier, alone and together, and learn what they cost."""
    engine = live.engine
    popular = engine.recommend([Request(k=K)], "popularity")[0].items
    if not popular:
        raise ArtifactError("the bundle recommends nothing to a new visitor; it has no item, or all are withdrawn")
    ids = tuple(item.item_id for item in popular)
    requests = [Request(history=ids[: 1 + n % len(ids)], k=K, user=f"warm-{n}") for n in range(count)]
    for tier in engine.tiers:
        for batch in ([Request(k=K)], requests):
            engine.recommend(batch, tier)  # the first call reads pages and fills caches
            begun = time.monotonic()
            engine.recommend(batch, tier)
            live.selector.observe(tier, len(batch), time.monotonic() - begun)
