"""The immutable part of an item index: a FAISS index that proposes candidates, and vectors for exact distances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from recsys.retrieval.config import Metric
from recsys.retrieval.exact import SPARE, SearchResult, as_distances, distances_to, scan
from recsys.retrieval.kinds import FLAT_MOST, effort_name, innermost, search_parameters, stores_exactly
from recsys.retrieval.library import GPU_MOST, GpuCopy, gpu_copy, import_faiss
from recsys.retrieval.tuning import TunedEffort
from recsys.tables import BoolArray, FloatArray, IntArray

Array = TypeVar("Array", IntArray, FloatArray)

_GRAPH_FACTOR, _LOSSY_FACTOR = 1.1, 3.0  # candidates per item where vectors are compressed
_GRAPH_SPARE = 8  # byte quantization is nearly exact, and every further candidate costs a graph time


class Lookup(NamedTuple):
    """Positions of M labels, and whether each is present; the position of an absent label is arbitrary."""

    positions: IntArray
    present: BoolArray


def find_labels(ascending: IntArray, labels: IntArray) -> Lookup:
    """Look up labels [M] in ascending ones."""
    if not len(ascending):
        return Lookup(np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=np.bool_))
    positions = np.minimum(np.searchsorted(ascending, labels), len(ascending) - 1)
    return Lookup(positions, ascending[positions] == labels)


class _Proposed(NamedTuple):
    """Candidates: rows [Q, M] of a base, padded with -1, and their exact distances."""

    positions: IntArray
    distances: FloatArray


@dataclass(frozen=True, repr=False)
class Base:
    """N items: `labels` [N], and a FAISS `IndexRefine` whose ids are the positions of labels.

    The refine index re-ranks candidates by exact distances, so that a compressed index orders like an exact one.
    Nothing here changes after it is built.
    """

    index: Any
    labels: IntArray
    kind: str
    factory: str
    metric: Metric
    recall_at: int
    tuned: TunedEffort

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, labels: IntArray) -> Lookup:
        """Look up labels [M]."""
        positions, present = find_labels(self._ascending, labels)
        return Lookup(self._order[positions] if len(self) else positions, present)

    @cached_property
    def vectors(self) -> FloatArray:
        """float32 [N, D], a view of FAISS's memory or of its mapped file; valid as long as this base."""
        faiss = import_faiss()
        flat = faiss.downcast_index(self.index.refine_index)
        if not len(self):
            return np.empty((0, flat.d), dtype=np.float32)
        view: FloatArray = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
        view.flags.writeable = False
        return view

    @cached_property
    def _candidates(self) -> Any:
        """The index that proposes candidates."""
        return import_faiss().downcast_index(self.index.base_index)

    @cached_property
    def _order(self) -> IntArray:
        return np.argsort(self.labels)

    @cached_property
    def _ascending(self) -> IntArray:
        return self.labels[self._order]

    @cached_property
    def effort_name(self) -> str | None:
        """`efSearch`, `nprobe`, or None for an index without such a parameter."""
        return effort_name(self.index)

    @cached_property
    def _gpu(self) -> GpuCopy | None:
        """A copy on the GPU, which has no implementation of graphs."""
        return gpu_copy(import_faiss(), self._candidates) if self.effort_name != "efSearch" and len(self) else None

    @cached_property
    def most_effort(self) -> int:
        """The number of lists, or of items."""
        return int(innermost(self.index).nlist) if self.effort_name == "nprobe" else len(self)

    @cached_property
    def _margin(self) -> tuple[float, int]:
        """Candidates per wanted item, and the least number of extra candidates."""
        if stores_exactly(self._candidates):
            return 1.0, SPARE
        return (_GRAPH_FACTOR, _GRAPH_SPARE) if self.effort_name == "efSearch" else (_LOSSY_FACTOR, SPARE)

    def _num_candidates(self, k: int) -> int:
        """Candidates to request from FAISS for k results: more, to be re-ranked by exact distances."""
        factor, spare = self._margin
        return min(max(math.ceil(factor * k), k + spare), len(self))

    def nearest(
        self, queries: FloatArray, k: int, mask: BoolArray | None = None, *, effort: int | None = None
    ) -> SearchResult:
        """Labels and exact distances [Q, M] of candidates for the k nearest, unordered.

        Args:
            queries: float32 [Q, D], validated.
            k: number of results; where the index finds fewer, brute force completes them.
            mask: [N], the allowed items; None allows all. A small selection is searched by brute force.
            effort: efSearch or nprobe instead of the tuned one, without completion by brute force.
        """
        count = len(self) if mask is None else int(np.count_nonzero(mask))
        if not count:
            nothing = np.empty((len(queries), 0))
            return SearchResult(nothing.astype(np.int64), nothing.astype(np.float32))
        if mask is not None and count <= FLAT_MOST and self.effort_name is not None:
            found = self._scanned(queries, k, mask)
        else:
            share = count / len(self)
            found = self._proposed(queries, k, mask, math.ceil((effort or self._effort(k)) / share))
        if not found.positions.size or found.positions[:, -1].min() >= 0:  # padding is at the end of a row
            return SearchResult(self.labels[found.positions], found.distances)
        short = found.positions[:, min(k, count) - 1] < 0
        if effort is None and short.any():
            scanned = self._scanned(queries[short], k, mask)
            found = _Proposed(
                _with_rows(found.positions, short, scanned.positions, empty=-1),
                _with_rows(found.distances, short, scanned.distances, empty=np.inf),
            )
        empty = found.positions < 0
        return SearchResult(np.where(empty, -1, self.labels[found.positions]), np.where(empty, np.inf, found.distances))

    def _effort(self, k: int) -> int:
        """The tuned effort, scaled up in proportion if k is above the number of items it was tuned for."""
        return math.ceil(self.tuned.effort * max(1.0, k / self.recall_at))

    def _proposed(self, queries: FloatArray, k: int, mask: BoolArray | None, effort: int) -> _Proposed:
        """Candidates from FAISS."""
        effort, wanted = min(effort, self.most_effort), self._num_candidates(k)
        if mask is None and self._gpu is not None and wanted <= GPU_MOST:
            parameters = search_parameters(self._candidates, effort=effort) if self.effort_name else None
            return self._measured(queries, self._gpu.search(queries, wanted, parameters))
        if mask is None:
            parameters = self._parameters(effort, effort < wanted)
        else:
            selector = import_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            parameters = search_parameters(self.index, effort=effort, selector=selector)
        distances, positions = self.index.search(queries, wanted, params=parameters)
        return _Proposed(positions, as_distances(distances, self.metric))

    def _measured(self, queries: FloatArray, positions: IntArray) -> _Proposed:
        return _Proposed(positions, distances_to(queries, self.vectors, positions, self.metric))

    def _parameters(self, effort: int, bounded: bool) -> Any:
        """FAISS parameters of an unfiltered search, cached, as making them takes a tenth of a search."""
        found = self._cached_parameters.get((effort, bounded))
        if found is None:
            found = search_parameters(self.index, effort=effort, bounded=bounded)
            self._cached_parameters[effort, bounded] = found
        return found

    @cached_property
    def _cached_parameters(self) -> dict[tuple[int, bool], Any]:
        return {}

    def _scanned(self, queries: FloatArray, k: int, mask: BoolArray | None) -> _Proposed:
        """Candidates by brute force over the allowed items."""
        if mask is None:
            return self._measured(queries, scan(queries, self.vectors, k, self.metric))
        allowed = np.flatnonzero(mask)
        return self._measured(queries, allowed[scan(queries, self.vectors[allowed], k, self.metric)])


def _with_rows(values: Array, rows: BoolArray, replacement: Array, *, empty: float) -> Array:
    """[Q, M] with some rows replaced by wider or narrower ones [R, M'], padded with `empty`."""
    out = np.full((len(values), max(values.shape[1], replacement.shape[1])), empty, dtype=values.dtype)
    out[:, : values.shape[1]] = values
    out[rows] = empty
    out[rows, : replacement.shape[1]] = replacement
    return cast(Array, out)
