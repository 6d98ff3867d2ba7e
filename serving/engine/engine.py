"""`BundleEngine`: a bundle in memory that answers requests in the user's own item ids, and whose items change live.

Reads a bundle folder, verified. Every request reads one immutable `CatalogState`; a change builds a new one and swaps
the reference.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.errors import DataError
from recsys.ranking.notices import shortage
from recsys.ranking.registry import DIFFUSION
from recsys.retrieval.index import ItemIndex
from recsys.tables import BoolArray, FloatArray
from serving.bundle.loading import LoadedBundle, load_bundle
from serving.engine.catalog_state import CatalogState
from serving.engine.interface import (
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

logger = logging.getLogger(__name__)

MIN_CHANGES = 1000  # additions and removals of the index that start a compaction; fewer cost a search next to nothing
MIN_SHARE = 0.1  # of the items; building a base takes time in proportion to them


class BundleEngine:
    """Satisfies `serving.engine.interface.Engine`."""

    def __init__(self, parts: LoadedBundle) -> None:
        self._state: CatalogState = parts.state.prepared()
        self._new_items: NewItemTokenizer = parts.new_items
        self._info: EngineInfo = parts.info
        self._changing, self._compactor = threading.Lock(), Compactor()

    @classmethod
    def load(cls, folder: Path) -> BundleEngine:
        """A bundle, every file of it verified; raises as `load_bundle`."""
        return cls(load_bundle(folder))

    def __repr__(self) -> str:
        return f"<BundleEngine {self._info.bundle} ({len(self._state)} items)>"

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return tuple(self._state.tiers)

    def check(self, request: Request) -> None:
        if request.k < 1:
            raise DataError(f"k={request.k} recommendations were requested; at least 1 is needed")
        self._state.allowed(request.where)

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        state, answers = self._state, dict[int, Answer]()
        groups: dict[Where, list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault(request.where, []).append(row)
        for where, rows in groups.items():
            found = state.recommender.recommend(
                [requests[row] for row in rows], allowed=state.allowed(where), ensemble=state.tiers[tier]
            )
            answers |= zip(rows, found, strict=True)
        return [answers[row] for row in range(len(requests))]

    def retrieve(self, retrieval: Retrieval) -> Answer:
        given = (retrieval.vector, retrieval.history, retrieval.item_id)
        if sum(part is not None for part in given) != 1:
            raise DataError("retrieve: give exactly one of vector, history and item_id")
        if retrieval.item_id is not None:
            return self.similar(retrieval.item_id, retrieval.k, retrieval.where)
        if retrieval.history is not None:
            return self._diffused(retrieval)
        state = self._state
        query = np.array([retrieval.vector], dtype=np.float32)
        return _found(state, query, retrieval.k, state.allowed(retrieval.where))

    def _diffused(self, retrieval: Retrieval) -> Answer:
        """The diffusion ranking of a history."""
        state = self._state
        full = state.recommender.ensemble
        if DIFFUSION not in full.rankers:
            raise DataError("retrieve: this bundle has no diffusion ranking; give a vector or an item_id")
        request = Request(retrieval.history or (), retrieval.k, retrieval.user)
        allowed = state.allowed(retrieval.where)
        return state.recommender.recommend([request], allowed=allowed, ensemble=full.only([DIFFUSION]))[0]

    def similar(self, item_id: str, k: int, where: Where = ()) -> Answer:
        state = self._state
        position = state.position(item_id)
        return _found(state, state.latents[position : position + 1], k, state.allowed(where), excluded=[position])

    def item(self, item_id: str) -> ItemMetadata:
        state = self._state
        position = state.position(item_id)
        row = state.items.catalog.frame.row(position, named=True)
        return ItemMetadata(
            item_id,
            state.titles[position],
            {name: row[name] for name in state.items.catalog.text_columns if row[name]},
            state.tokens(position),
            int(state.items.counts[position]),
            not state.visible[position],
        )

    def search(self, text: str, limit: int) -> tuple[RankedItem, ...]:
        state = self._state
        found = state.title_index.search(text, state.items.counts, limit, state.visible)
        return tuple(state.recommender.item(item, float(state.items.counts[item])) for item in found)

    def values(self, column: str, limit: int) -> tuple[tuple[str, int], ...]:
        return self._state.filter_index.values(column, limit)

    def add(self, items: Sequence[NewItem]) -> None:
        if not items:
            return
        with self._changing:
            state = self._state
            made = self._new_items.tokens(items, state.items.catalog, state.semantic_ids.codes)
            changed = state.adding(*made).prepared()
            labels = np.arange(len(state), len(changed))
            state.item_index.add(labels, made.latents)
            self._change(changed)
        self._compactor.start_if_due(changed.item_index)

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
            changed, index = state.showing(positions, visible).prepared(), state.item_index
            if visible:
                index.add(positions, state.latents[positions])
                self._change(changed)
            else:
                self._change(changed)
                index.remove(positions)
        self._compactor.start_if_due(index)

    def _change(self, state: CatalogState) -> None:
        self._state, self._info = state, replace(self._info, items=int(state.visible.sum()))


def _found(
    state: CatalogState, query: FloatArray, k: int, allowed: BoolArray | None, excluded: Sequence[int] = ()
) -> Answer:
    """The `k` items nearest to a query [1, D], some items excluded."""
    left_out = np.array(excluded, dtype=np.int64)
    candidates = allowed
    if excluded:
        candidates = np.ones(len(state), dtype=np.bool_) if allowed is None else allowed.copy()
        candidates[left_out] = False
    labels, distances = state.item_index.search(query, k, candidates)
    near = [(int(i), float(d)) for i, d in zip(labels[0], distances[0], strict=True) if i >= 0]
    items = tuple(state.recommender.item(item, -distance) for item, distance in near)
    if len(items) == k:
        return Answer(items)
    counted = state.recommender.candidates(allowed, seen=left_out[:0], excluded=left_out)
    return Answer(items, (shortage(k, len(items), counted),))


class Compactor:
    """Compacts one index after another on one thread; searches and changes go on meanwhile.

    Live changes become part of a new base, which is swapped in atomically.
    """

    def __init__(self) -> None:
        self._thread = threading.Thread()

    def start_if_due(self, index: ItemIndex) -> None:
        """Start a compaction where many items have changed since the last one and none is running."""
        if index.num_changes >= max(MIN_CHANGES, MIN_SHARE * len(index)) and not self._thread.is_alive():
            self._thread = threading.Thread(target=_compact, args=(index,), name="recsys-compaction", daemon=True)
            self._thread.start()


def _compact(index: ItemIndex) -> None:
    try:
        index.compact()
    except Exception as error:  # noqa: BLE001 - the index stays as it is, and the next change tries again
        logger.error("compaction of the item index failed: %s: %s", type(error).__name__, error)
