"""`BundleEngine`: a bundle in memory that answers requests in the user's own item ids, and whose items change live.

Reads a bundle folder, verified. Every request reads one immutable `CatalogState`; a
change builds a new one and swaps the reference.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.baselines.base import TopItems
from recsys.errors import DataError
from recsys.fusion import DENSE, FUSED, GENERATIVE
from recsys.rankers.ensemble import Effort as SearchBudget
from recsys.rankers.ensemble import Tuned
from recsys.rankers.permits import Permits
from recsys.rankers.stopwatch import Stopwatch
from recsys.tables import BoolArray, FloatArray, Histories, IntArray
from serving.bundle.loading import LoadedBundle, load_bundle
from serving.engine.catalog_state import CatalogState
from serving.engine.compaction import Compactor
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
    Where,
)
from serving.engine.new_items import NewItemTokenizer

POPULARITY = "popularity"
SEARCH_BUDGETS: dict[Tier, SearchBudget] = {
    "full": SearchBudget(),
    "narrow": SearchBudget(beams=10, samples=8),
    "dense": SearchBudget(beams=0),
}


class BundleEngine:
    """Satisfies `serving.engine.interface.Engine`."""

    def __init__(self, parts: LoadedBundle) -> None:
        self._state: CatalogState = parts.state.prepared()
        self._tuned: Tuned | None = parts.tuned
        self._new_items: NewItemTokenizer = parts.new_items
        self._info: EngineInfo = parts.info
        self._changing, self._compactor = threading.Lock(), Compactor()

    @classmethod
    def load(cls, folder: Path) -> BundleEngine:
        """A bundle, every file of it verified.

        Raises:
            ArtifactError: a file is missing, altered or of another bundle.
            ModelError: the language model cannot be loaded, or cannot be decoded as a tree.
        """
        return cls(load_bundle(folder))

    def __repr__(self) -> str:
        return f"<BundleEngine {self._info.bundle} ({len(self._state)} items)>"

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return TIERS if self._tuned is not None else tuple(tier for tier in TIERS if tier != "dense")

    def check(self, request: Request) -> None:
        if request.k < 1:
            raise DataError(f"k={request.k} recommendations were asked for; at least 1 is needed")
        self._state.allowed(request.where)

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        state = self._state
        answers: dict[int, Answer] = {}
        for rows in self._alike(requests, tier):
            group = [requests[row] for row in rows]
            answers |= zip(rows, self._answer(state, group, tier), strict=True)
        return [answers[row] for row in range(len(requests))]

    def _alike(self, requests: Sequence[Request], tier: Tier) -> list[list[int]]:
        """Requests that can be ranked together without one changing what another gets."""
        groups: dict[tuple[Where, int], list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault((request.where, self._deep(request, tier)), []).append(row)
        return list(groups.values())

    def _deep(self, request: Request, tier: Tier) -> int:
        """How many items are ranked for a request, so that most requests are ranked alike."""
        beams = SEARCH_BUDGETS[tier].beams if tier in SEARCH_BUDGETS else None
        alone = self._tuned is None and beams is not None
        return max(request.k, beams if alone and beams else self._state.settings.recommend.fusion.depth)

    def _answer(
        self, state: CatalogState, group: Sequence[Request], tier: Tier, *, alone: str | None = None
    ) -> list[Answer]:
        """Answers of requests with the same filter, by one ranking `alone` or by that which is served."""
        positions = state.items.catalog.positions
        known = [[positions[i] for i in request.history if i in positions] for request in group]
        ignored = [tuple(i for i in request.history if i not in positions) for request in group]
        permits = Permits(
            [self._excluded(state, request, seen) for request, seen in zip(group, known, strict=True)],
            state.allowed(group[0].where),
        )
        watch = Stopwatch()
        if tier == POPULARITY:
            with watch("retrieve"):
                rankings: dict[str, TopItems] = {
                    POPULARITY: _popular(state, permits, len(group), max(request.k for request in group))
                }
        else:
            names = [r.user if r.user is not None else "\0".join(r.history) for r in group]
            k = self._deep(group[0], tier)
            rankings = self._rank(state, Histories.from_lists(names, known), permits, tier, k=k, watch=watch)
            rankings = rankings if alone is None else {alone: rankings[alone]}
        return [
            Answer(_listed(state, rankings, row, request.k), ignored[row], watch.seconds)
            for row, request in enumerate(group)
        ]

    def _excluded(self, state: CatalogState, request: Request, seen: list[int]) -> IntArray:
        positions = state.items.catalog.positions
        excluded = [positions[i] for i in request.exclude if i in positions]
        if state.settings.exclude_seen if request.exclude_seen is None else request.exclude_seen:
            excluded += seen
        return np.unique(np.array(excluded, dtype=np.int64))

    def _rank(
        self, state: CatalogState, histories: Histories, permits: Permits, tier: Tier, *, k: int, watch: Stopwatch
    ) -> dict[str, TopItems]:
        settings, budget = state.settings, SEARCH_BUDGETS[tier]
        if state.ensemble is not None and self._tuned is not None:
            return state.ensemble.rank(
                histories, histories.user_ids, self._tuned, k=k, permits=permits, effort=budget, stopwatch=watch
            )
        with watch("prefill"):
            tree = state.generative.read(histories, window=settings.window)
        with watch("decode"):
            return {GENERATIVE: state.generative.write(tree, permits, k=k, beams=budget.beams)}

    def retrieve(self, retrieval: Retrieval) -> tuple[RankedItem, ...]:
        given = (retrieval.vector, retrieval.history, retrieval.item_id)
        if sum(part is not None for part in given) != 1:
            raise DataError("retrieve: give exactly one of vector, history and item_id")
        if retrieval.item_id is not None:
            return self.similar(retrieval.item_id, retrieval.k, retrieval.where)
        if retrieval.history is not None:
            if self._tuned is None:
                raise DataError("retrieve: this bundle has no continuous route; give a vector or an item_id")
            request = Request(retrieval.history, retrieval.k, retrieval.user, where=retrieval.where)
            return self._answer(self._state, [request], "dense", alone=DENSE)[0].items
        state = self._state
        query = np.array([retrieval.vector], dtype=np.float32)
        return _found(state, query, retrieval.k, state.allowed(retrieval.where))

    def similar(self, item_id: str, k: int, where: Where = ()) -> tuple[RankedItem, ...]:
        state = self._state
        position = state.position(item_id)
        allowed = state.allowed(where)
        allowed = np.ones(len(state), dtype=np.bool_) if allowed is None else allowed.copy()
        allowed[position] = False
        return _found(state, state.items.latents[position : position + 1], k, allowed)

    def item(self, item_id: str) -> ItemMetadata:
        state = self._state
        position = state.position(item_id)
        row = state.items.catalog.frame.row(position, named=True)
        return ItemMetadata(
            item_id,
            state.titles[position],
            {name: row[name] for name in state.items.catalog.text_columns if row[name]},
            _tokens(state, position),
            int(state.items.counts[position]),
            not state.visible[position],
        )

    def search(self, text: str, limit: int) -> tuple[RankedItem, ...]:
        state = self._state
        found = state.title_index.search(text, state.items.counts, limit, state.visible)
        return tuple(_item(state, item, float(state.items.counts[item])) for item in found)

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        return self._state.filter_index.values(column, limit)

    def add(self, items: Sequence[NewItem]) -> None:
        if not items:
            return
        with self._changing:
            state = self._state
            made = self._new_items.tokens(items, state.items.catalog, state.items.semantic_ids.codes)
            changed = state.adding(*made).prepared()
            labels = np.arange(len(state), len(changed))
            state.items.item_index.add(labels, made.latents)
            self._change(changed)
        self._compactor.start_if_due(changed.items.item_index)

    def withdraw(self, item_ids: Sequence[str]) -> None:
        self._show(item_ids, False)

    def restore(self, item_ids: Sequence[str]) -> None:
        self._show(item_ids, True)

    def _show(self, item_ids: Sequence[str], visible: bool) -> None:
        if not item_ids:
            return
        with self._changing:
            state = self._state
            positions = np.unique([state.position(item_id) for item_id in item_ids])
            already = positions[state.visible[positions] == visible]
            if len(already):
                reason = "is not withdrawn" if visible else "has been withdrawn already"
                raise DataError(f"item {state.items.catalog.item_ids[already[0]]!r} {reason}")
            changed, index = state.showing(positions, visible).prepared(), state.items.item_index
            if visible:
                index.add(positions, state.items.latents[positions])
                self._change(changed)
            else:
                self._change(changed)
                index.remove(positions)
        self._compactor.start_if_due(index)

    def _change(self, state: CatalogState) -> None:
        self._state, self._info = state, replace(self._info, items=int(state.visible.sum()))


def _popular(state: CatalogState, permits: Permits, num_requests: int, k: int) -> TopItems:
    """The permitted items met most often."""
    order, counts = state.by_popularity, state.items.counts
    order = order if permits.allowed is None else order[permits.allowed[order]]
    items = np.full((num_requests, k), -1, dtype=np.int64)
    for row in range(num_requests):
        excluded = permits.excluded[row] if permits.excluded is not None else np.empty(0, np.int64)
        head = order[: k + len(excluded)]
        kept = head[~np.isin(head, excluded)][:k]
        items[row, : len(kept)] = kept
    scores: FloatArray = np.where(items >= 0, counts[items], -np.inf).astype(np.float32)
    return TopItems(items, scores)


def _found(state: CatalogState, query: FloatArray, k: int, allowed: BoolArray | None) -> tuple[RankedItem, ...]:
    labels, distances = state.items.item_index.search(query, k, allowed)
    near = [(int(i), float(d)) for i, d in zip(labels[0], distances[0], strict=True) if i >= 0]
    return tuple(_item(state, item, -distance) for item, distance in near)


def _listed(state: CatalogState, rankings: dict[str, TopItems], row: int, k: int) -> tuple[RankedItem, ...]:
    """The served ranking, which is the last one, with what the others say of each of its items."""
    scores = {
        source: {
            int(item): float(score)
            for item, score in zip(found.items[row], found.scores[row], strict=True)
            if item >= 0
        }
        for source, found in rankings.items()
    }
    *_, served = scores.values()
    said = {source: found for source, found in scores.items() if source != FUSED}
    return tuple(
        _item(state, item, score, {source: found[item] for source, found in said.items() if item in found})
        for item, score in list(served.items())[:k]
    )


def _item(state: CatalogState, item: int, score: float, source_scores: dict[str, float] | None = None) -> RankedItem:
    item_id = state.items.catalog.item_ids[item]
    return RankedItem(item_id, state.titles[item], score, source_scores or {}, _tokens(state, item))


def _tokens(state: CatalogState, item: int) -> tuple[str, ...]:
    return state.language_model.layout.tokens(state.items.semantic_ids.codes[item])
