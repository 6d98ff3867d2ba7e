"""`FakeEngine`: an engine without models, with known right answers and failures chosen by the test."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from recsys.errors import DataError
from recsys.ranking.notices import Candidates, history_notices, shortage
from serving.engine.interface import (
    TIERS,
    Answer,
    EngineInfo,
    ItemMetadata,
    NewItem,
    RankedItem,
    Request,
    Retrieval,
    Tier,
)
from serving.engine.interface import Where as Filters

PATIENCE = 30.0  # seconds after which a forgotten gate lets its test fail rather than hang
CATEGORIES = ("books", "games", "music")


class Call(NamedTuple):
    """One call of `recommend`."""

    requests: tuple[Request, ...]
    tier: Tier


class FakeEngine:
    """Items `<prefix>0`, `<prefix>1`, ... in three categories; what is recommended follows the history's last item.

    `calls` records what reached `recommend`. `failures` raises an error at a tier, `refused` names users whose
    requests raise DataError there (but pass `check`), `illegal` ids are put in front of every answer, `cost` is the
    seconds that a batch takes, and `hold` keeps a batch inside the engine; all may be changed at any time.
    """

    def __init__(
        self,
        bundle: str = "fake",
        *,
        items: int = 30,
        prefix: str = "i",
        titles: Mapping[str, str] | None = None,
        tiers: tuple[Tier, ...] = TIERS,
        cost: Callable[[Tier, int], float] | None = None,
        exclude_seen: bool = False,
    ) -> None:
        self.bundle, self.prefix, self.exclude_seen, self.cost = bundle, prefix, exclude_seen, cost
        self.calls: list[Call] = []
        self.failures: dict[Tier, Exception] = {}
        self.refused: set[str] = set()
        self.illegal: tuple[str, ...] = ()
        self.entered = threading.Event()  # set whenever a batch is inside
        self._gate = threading.Event()
        self._gate.set()
        self._tiers = tiers
        self._texts = {
            f"{prefix}{n}": {"title": f"Item {prefix}{n}", "categories": CATEGORIES[n % 3]} for n in range(items)
        }
        for item_id, title in (titles or {}).items():
            self._texts.setdefault(item_id, {"categories": CATEGORIES[0]})["title"] = title
        self._withdrawn: set[str] = set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep every call of `recommend` inside the engine until the block is left."""
        self.entered.clear()
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    @property
    def info(self) -> EngineInfo:
        live = len(self._texts) - len(self._withdrawn)
        routes = ("discrete", "continuous")
        return EngineInfo(self.bundle, live, routes, ("categories",), {"recsys": "0"}, {"exclude_seen": "false"})

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return self._tiers

    def check(self, request: Request) -> None:
        self._check_filters(request.where)

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        self.calls.append(Call(tuple(requests), tier))
        self.entered.set()
        assert self._gate.wait(PATIENCE), "a test left the gate shut"
        if self.cost is not None:
            time.sleep(self.cost(tier, len(requests)))
        if tier in self.failures:
            raise self.failures[tier]
        for request in requests:
            self.check(request)
            if request.user in self.refused:
                raise DataError(f"user: got {request.user!r}, which is refused")
        return [self._answer(request, tier) for request in requests]

    def retrieve(self, retrieval: Retrieval) -> Answer:
        if retrieval.item_id is not None:
            return self.similar(retrieval.item_id, retrieval.k, retrieval.where)
        asked = Request(history=retrieval.history or (), k=retrieval.k, where=retrieval.where)
        return self._answer(asked, "no-decoding")

    def similar(self, item_id: str, k: int, where: Filters = ()) -> Answer:
        self.item(item_id)
        return self._answer(Request(history=(item_id,), k=k, exclude_seen=True, where=where), "no-decoding")

    def item(self, item_id: str) -> ItemMetadata:
        if item_id not in self._texts:
            raise DataError(f"item_id: got {item_id!r}, which the catalogue does not have")
        texts = self._texts[item_id]
        place = list(self._texts).index(item_id)
        return ItemMetadata(item_id, texts["title"], texts, _tokens(place), place, item_id in self._withdrawn)

    def search(self, text: str, limit: int) -> tuple[RankedItem, ...]:
        words = text.lower().split()
        found = [
            self._ranked(item_id, 0, "no-decoding")
            for item_id, texts in self._texts.items()
            if item_id not in self._withdrawn and all(word in texts["title"].lower() for word in words)
        ]
        return tuple(sorted(found, key=lambda item: not item.title.lower().startswith(text.lower()))[:limit])

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        self._check_filters(((column, ()),))
        counts = dict.fromkeys(CATEGORIES, 0)
        for item_id, texts in self._texts.items():
            counts[texts["categories"]] += item_id not in self._withdrawn
        return tuple(sorted(counts.items(), key=lambda entry: -entry[1])[:limit])

    def add(self, items: Sequence[NewItem]) -> None:
        for item in items:
            if item.item_id in self._texts:
                raise DataError(f"item_id: got {item.item_id!r}, which the catalogue has already")
        for item in items:
            self._texts[item.item_id] = {"title": item.item_id, "categories": CATEGORIES[0], **item.texts}

    def withdraw(self, item_ids: Sequence[str]) -> None:
        for item_id in item_ids:
            self.item(item_id)
        self._withdrawn.update(item_ids)

    def restore(self, item_ids: Sequence[str]) -> None:
        for item_id in item_ids:
            if not self.item(item_id).withdrawn:
                raise DataError(f"item {item_id!r} is not withdrawn")
        self._withdrawn.difference_update(item_ids)

    def _check_filters(self, where: Filters) -> None:
        for column, _ in where:
            if column != "categories":
                raise DataError(f"where: got the column {column!r}; filters are categories")

    def _answer(self, request: Request, tier: Tier) -> Answer:
        known = [item_id for item_id in request.history if item_id in self._texts]
        every = list(self._texts)
        start = every.index(known[-1]) + 1 if known and tier != "popularity" else 0
        seen = self.exclude_seen if request.exclude_seen is None else request.exclude_seen
        banned = {*request.exclude, *(known if seen else ()), *self._withdrawn}
        allowed = [
            item_id
            for item_id in every[start:] + every[:start]
            if item_id not in banned and all(self._texts[item_id][column] in values for column, values in request.where)
        ]
        shown = [*self.illegal, *allowed][: request.k]
        items = tuple(self._ranked(item_id, rank, tier) for rank, item_id in enumerate(shown))
        notices = history_notices(request.history, [i for i in request.history if i not in self._texts])
        if len(items) < request.k:
            notices += (shortage(request.k, len(items), self._candidates(request, known if seen else [])),)
        return Answer(items, notices, {"generative": 0.002, "diffusion": 0.001} if tier in ("full", "narrow") else {})

    def _candidates(self, request: Request, seen: Sequence[str]) -> Candidates:
        every = list(self._texts)
        passes = [all(texts[column] in values for column, values in request.where) for texts in self._texts.values()]
        return Candidates.count(
            np.array(passes, dtype=np.bool_) & ~np.isin(every, list(self._withdrawn)),
            catalogue=len(every),
            withdrawn=len(self._withdrawn),
            seen=np.array([every.index(i) for i in seen], dtype=np.int64),
            excluded=np.array([every.index(i) for i in request.exclude if i in self._texts], dtype=np.int64),
        )

    def _ranked(self, item_id: str, rank: int, tier: Tier) -> RankedItem:
        place = list(self._texts).index(item_id) if item_id in self._texts else 0
        title = self._texts.get(item_id, {}).get("title", item_id)
        ranking = "popularity" if tier == "popularity" else "diffusion"
        source_scores = {ranking: 1.0 / (1 + rank)} | (
            {"generative": -0.5 * rank} if tier in ("full", "narrow") else {}
        )
        return RankedItem(item_id, title, 1.0 / (1 + rank), source_scores, _tokens(place))


def _tokens(place: int) -> tuple[str, ...]:
    return f"<a_{place // 8}>", f"<b_{place % 8}>"
