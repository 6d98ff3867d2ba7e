"""`BundleEngine`: a bundle in memory that answers requests in the user's own item ids, and whose items change live.

Reads a bundle folder, verified. Every request sees one `Shelf`; a change makes another one and swaps the reference.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys.baselines.base import TopItems
from recsys.errors import DataError
from recsys.fusion import DENSE, FUSED, GENERATIVE
from recsys.rankers.ensemble import Effort as Trying
from recsys.rankers.ensemble import Tuned
from recsys.rankers.permits import Permits
from recsys.rankers.stopwatch import Stopwatch
from recsys.tables import BoolArray, FloatArray, Histories, IntArray
from serving.interface import (
    EFFORTS,
    Answer,
    Effort,
    EngineInfo,
    ItemFacts,
    NewItem,
    RankedItem,
    Request,
    Retrieval,
    Where,
)
from serving.newcomers import Newcomers
from serving.parts import Parts, load_parts
from serving.shelf import Shelf

POPULARITY = "popularity"
TRYING: dict[Effort, Trying] = {"full": Trying(), "narrow": Trying(beams=10, samples=8), "dense": Trying(beams=0)}


class BundleEngine:
    """Satisfies `serving.interface.Engine`."""

    def __init__(self, parts: Parts) -> None:
        self._shelf: Shelf = parts.shelf.prepared()
        self._tuned: Tuned | None = parts.tuned
        self._newcomers: Newcomers = parts.newcomers
        self._info: EngineInfo = parts.info
        self._changing = threading.Lock()

    @classmethod
    def load(cls, folder: Path) -> BundleEngine:
        """A bundle, every file of it verified.

        Raises:
            ArtifactError: a file is missing, altered or of another bundle.
            ModelError: the language model cannot be loaded, or cannot be decoded as a tree.
        """
        return cls(load_parts(folder))

    def __repr__(self) -> str:
        return f"<BundleEngine {self._info.bundle} ({len(self._shelf)} items)>"

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def efforts(self) -> tuple[Effort, ...]:
        return EFFORTS if self._tuned is not None else tuple(effort for effort in EFFORTS if effort != "dense")

    def check(self, request: Request) -> None:
        if request.k < 1:
            raise DataError(f"k={request.k} recommendations were asked for; at least 1 is needed")
        self._shelf.allowed(request.where)

    def recommend(self, requests: Sequence[Request], effort: Effort) -> list[Answer]:
        shelf = self._shelf
        answers: dict[int, Answer] = {}
        for rows in self._alike(requests, effort):
            group = [requests[row] for row in rows]
            answers |= zip(rows, self._answer(shelf, group, effort), strict=True)
        return [answers[row] for row in range(len(requests))]

    def _alike(self, requests: Sequence[Request], effort: Effort) -> list[list[int]]:
        """Requests that can be ranked together without one changing what another gets."""
        groups: dict[tuple[Where, int], list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault((request.where, self._deep(request, effort)), []).append(row)
        return list(groups.values())

    def _deep(self, request: Request, effort: Effort) -> int:
        """How many items are ranked for a request, so that most requests are ranked alike."""
        beams = TRYING[effort].beams if effort in TRYING else None
        alone = self._tuned is None and beams is not None
        return max(request.k, beams if alone and beams else self._shelf.settings.recommend.fusion.depth)

    def _answer(
        self, shelf: Shelf, group: Sequence[Request], effort: Effort, *, alone: str | None = None
    ) -> list[Answer]:
        """Answers of requests with the same filter, by one ranking `alone` or by that which is served."""
        positions = shelf.items.catalog.positions
        known = [[positions[i] for i in request.history if i in positions] for request in group]
        ignored = [tuple(i for i in request.history if i not in positions) for request in group]
        permits = Permits(
            [self._excluded(shelf, request, seen) for request, seen in zip(group, known, strict=True)],
            shelf.allowed(group[0].where),
        )
        watch = Stopwatch()
        if effort == POPULARITY:
            with watch("retrieve"):
                rankings: dict[str, TopItems] = {
                    POPULARITY: _popular(shelf, permits, len(group), max(request.k for request in group))
                }
        else:
            names = [r.user if r.user is not None else "\0".join(r.history) for r in group]
            k = self._deep(group[0], effort)
            rankings = self._rank(shelf, Histories.from_lists(names, known), permits, effort, k=k, watch=watch)
            rankings = rankings if alone is None else {alone: rankings[alone]}
        return [
            Answer(_listed(shelf, rankings, row, request.k), ignored[row], watch.seconds)
            for row, request in enumerate(group)
        ]

    def _excluded(self, shelf: Shelf, request: Request, seen: list[int]) -> IntArray:
        positions = shelf.items.catalog.positions
        excluded = [positions[i] for i in request.exclude if i in positions]
        if shelf.settings.exclude_seen if request.exclude_seen is None else request.exclude_seen:
            excluded += seen
        return np.unique(np.array(excluded, dtype=np.int64))

    def _rank(
        self, shelf: Shelf, histories: Histories, permits: Permits, effort: Effort, *, k: int, watch: Stopwatch
    ) -> dict[str, TopItems]:
        settings, trying = shelf.settings, TRYING[effort]
        if shelf.ensemble is not None and self._tuned is not None:
            return shelf.ensemble.rank(
                histories, histories.user_ids, self._tuned, k=k, permits=permits, effort=trying, stopwatch=watch
            )
        with watch("prefill"):
            tree = shelf.generative.read(histories, window=settings.window)
        with watch("decode"):
            return {GENERATIVE: shelf.generative.write(tree, permits, k=k, beams=trying.beams)}

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
            return self._answer(self._shelf, [request], "dense", alone=DENSE)[0].items
        shelf = self._shelf
        query = np.array([retrieval.vector], dtype=np.float32)
        return _found(shelf, query, retrieval.k, shelf.allowed(retrieval.where))

    def similar(self, item_id: str, k: int, where: Where = ()) -> tuple[RankedItem, ...]:
        shelf = self._shelf
        position = shelf.position(item_id)
        allowed = shelf.allowed(where)
        allowed = np.ones(len(shelf), dtype=np.bool_) if allowed is None else allowed.copy()
        allowed[position] = False
        return _found(shelf, shelf.items.latents[position : position + 1], k, allowed)

    def item(self, item_id: str) -> ItemFacts:
        shelf = self._shelf
        position = shelf.position(item_id)
        row = shelf.items.catalog.frame.row(position, named=True)
        return ItemFacts(
            item_id,
            shelf.titles[position],
            {name: row[name] for name in shelf.items.catalog.text_columns if row[name]},
            _tokens(shelf, position),
            int(shelf.items.counts[position]),
            not shelf.visible[position],
        )

    def search(self, text: str, limit: int) -> tuple[RankedItem, ...]:
        shelf = self._shelf
        found = shelf.title_index.search(text, shelf.items.counts, limit + int((~shelf.visible).sum()))
        kept = [item for item in found if shelf.visible[item]][:limit]
        return tuple(_item(shelf, item, float(shelf.items.counts[item])) for item in kept)

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        return self._shelf.facets.values(column, limit)

    def add(self, items: Sequence[NewItem]) -> None:
        if not items:
            return
        with self._changing:
            shelf = self._shelf
            made = self._newcomers.tokens(items, shelf.items.catalog, shelf.items.semantic_ids.codes)
            changed = shelf.adding(*made).prepared()
            labels = np.arange(len(shelf), len(changed))
            shelf.items.item_index.add(labels, made.latents)
            self._change(changed)

    def withdraw(self, item_ids: Sequence[str]) -> None:
        self._show(item_ids, False)

    def restore(self, item_ids: Sequence[str]) -> None:
        self._show(item_ids, True)

    def _show(self, item_ids: Sequence[str], visible: bool) -> None:
        if not item_ids:
            return
        with self._changing:
            shelf = self._shelf
            positions = np.unique([shelf.position(item_id) for item_id in item_ids])
            already = positions[shelf.visible[positions] == visible]
            if len(already):
                said = "is not withdrawn" if visible else "has been withdrawn already"
                raise DataError(f"item {shelf.items.catalog.item_ids[already[0]]!r} {said}")
            changed, index = shelf.showing(positions, visible).prepared(), shelf.items.item_index
            if visible:
                index.add(positions, shelf.items.latents[positions])
                self._change(changed)
            else:
                self._change(changed)
                index.remove(positions)

    def _change(self, shelf: Shelf) -> None:
        facts = self._info.__dict__ | {"items": int(shelf.visible.sum())}
        self._shelf, self._info = shelf, EngineInfo(**facts)


def _popular(shelf: Shelf, permits: Permits, num_requests: int, k: int) -> TopItems:
    """The permitted items met most often."""
    order, counts = shelf.by_popularity, shelf.items.counts
    order = order if permits.allowed is None else order[permits.allowed[order]]
    items = np.full((num_requests, k), -1, dtype=np.int64)
    for row in range(num_requests):
        excluded = permits.excluded[row] if permits.excluded is not None else np.empty(0, np.int64)
        head = order[: k + len(excluded)]
        kept = head[~np.isin(head, excluded)][:k]
        items[row, : len(kept)] = kept
    scores: FloatArray = np.where(items >= 0, counts[items], -np.inf).astype(np.float32)
    return TopItems(items, scores)


def _found(shelf: Shelf, query: FloatArray, k: int, allowed: BoolArray | None) -> tuple[RankedItem, ...]:
    labels, distances = shelf.items.item_index.search(query, k, allowed)
    near = [(int(i), float(d)) for i, d in zip(labels[0], distances[0], strict=True) if i >= 0]
    return tuple(_item(shelf, item, -distance) for item, distance in near)


def _listed(shelf: Shelf, rankings: dict[str, TopItems], row: int, k: int) -> tuple[RankedItem, ...]:
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
        _item(shelf, item, score, {source: found[item] for source, found in said.items() if item in found})
        for item, score in list(served.items())[:k]
    )


def _item(shelf: Shelf, item: int, score: float, sources: dict[str, float] | None = None) -> RankedItem:
    item_id = shelf.items.catalog.item_ids[item]
    return RankedItem(item_id, shelf.titles[item], score, sources or {}, _tokens(shelf, item))


def _tokens(shelf: Shelf, item: int) -> tuple[str, ...]:
    return shelf.language_model.layout.tokens(shelf.items.semantic_ids.codes[item])
