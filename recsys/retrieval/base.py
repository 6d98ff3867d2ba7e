"""The immutable part of an item index: a FAISS index for candidates, and the vectors that give exact distances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.retrieval.config import Metric
from recsys.retrieval.exact import SPARE, Candidates, distances_to, scan
from recsys.retrieval.kinds import FLAT_MOST, effort_name, innermost, search_parameters, stores_exactly
from recsys.retrieval.library import GpuCopy, fits_gpu, gpu_copy, import_faiss
from recsys.retrieval.tuning import Tuned
from recsys.tables import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

_GRAPH_FACTOR, _LOSSY_FACTOR = 1.1, 3.0  # candidates asked for an item wanted, where vectors are stored compressed


class Places(NamedTuple):
    """Of each of M labels its position, and whether it is there at all; where it is not, the position means nothing."""

    positions: IntArray
    present: BoolArray


def places_in(ascending: IntArray, labels: IntArray) -> Places:
    """Where labels [M] are in ascending ones."""
    if not len(ascending):
        return Places(np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=np.bool_))
    positions = np.minimum(np.searchsorted(ascending, labels), len(ascending) - 1)
    return Places(positions, ascending[positions] == labels)


@dataclass(frozen=True, repr=False)
class Base:
    """N items: `labels` [N], `vectors` float32 [N, D], and a FAISS index whose ids are the positions of both.

    FAISS proposes candidates; their distances are computed again from `vectors`, so that a compressed index orders
    like an exact one. Nothing here changes after it is built.
    """

    index: Any
    labels: IntArray
    vectors: FloatArray
    kind: str
    factory: str
    metric: Metric
    recall_at: int
    tuned: Tuned

    def __len__(self) -> int:
        return len(self.labels)

    def places(self, labels: IntArray) -> Places:
        """Where labels [M] are."""
        places, present = places_in(self._ascending, labels)
        return Places(self._order[places] if len(self) else places, present)

    @cached_property
    def _order(self) -> IntArray:
        return np.argsort(self.labels)

    @cached_property
    def _ascending(self) -> IntArray:
        return self.labels[self._order]

    @cached_property
    def effort_name(self) -> str | None:
        """`efSearch`, `nprobe`, or None where the type of index always does the same."""
        return effort_name(self.index)

    @cached_property
    def _gpu(self) -> GpuCopy | None:
        """Not for graphs, which have no twin there."""
        return gpu_copy(import_faiss(), self.index) if self.effort_name != "efSearch" and len(self) else None

    @cached_property
    def most_effort(self) -> int:
        """All lists, or all items."""
        return int(innermost(self.index).nlist) if self.effort_name == "nprobe" else len(self)

    @cached_property
    def _factor(self) -> float:
        if stores_exactly(self.index):
            return 1.0
        return _GRAPH_FACTOR if self.effort_name == "efSearch" else _LOSSY_FACTOR

    def num_candidates(self, k: int) -> int:
        """How many FAISS is asked for when k are wanted: more, for exact distances to choose from."""
        return min(math.ceil(self._factor * k) + SPARE, len(self))

    def nearest(
        self, queries: FloatArray, k: int, mask: BoolArray | None = None, *, effort: int | None = None
    ) -> Candidates:
        """Positions and exact distances [Q, M] of candidates for the k nearest, unordered.

        Args:
            queries: float32 [Q, D], checked.
            k: how many are wanted; min(k, their number) are found, by brute force where the effort was too little.
            mask: [N], the items that may be found; all where it is None. Few are scanned one by one.
            effort: efSearch or nprobe in place of the tuned one, and then nothing makes up for it.
        """
        count = len(self) if mask is None else int(np.count_nonzero(mask))
        if not count:
            positions = np.empty((len(queries), 0), dtype=np.int64)
        elif mask is not None and count <= FLAT_MOST and self.effort_name is not None:
            positions = self._scanned(queries, k, mask)
        else:
            share = count / len(self)
            positions = self._proposed(queries, k, mask, math.ceil((effort or self._effort(k)) / share))
            short = positions[:, min(k, count) - 1] < 0  # FAISS puts empty places last
            if effort is None and short.any():
                positions = _with_rows(positions, short, self._scanned(queries[short], k, mask))
        return Candidates(positions, distances_to(queries, self.vectors, positions, self.metric))

    def _effort(self, k: int) -> int:
        """The tuned effort, in proportion where more items are wanted than it was tuned for."""
        return math.ceil(self.tuned.effort * max(1.0, k / self.recall_at))

    def _proposed(self, queries: FloatArray, k: int, mask: BoolArray | None, effort: int) -> IntArray:
        """Positions [Q, M] of what FAISS finds."""
        effort, wanted = min(effort, self.most_effort), self.num_candidates(k)
        if self.effort_name == "efSearch":
            effort = max(effort, wanted)
        if mask is None and self._gpu is not None and fits_gpu(wanted):
            parameters = search_parameters(self.index, effort=effort) if self.effort_name else None
            return self._gpu.search(queries, wanted, parameters)
        if mask is None:
            parameters = self._parameters(effort)
        else:
            parameters = search_parameters(self.index, effort=effort, selector=_selector(mask))
        positions: IntArray = self.index.search(queries, wanted, params=parameters)[1]
        return positions

    def _parameters(self, effort: int) -> Any:
        """FAISS's parameters of an unfiltered search, made once an effort: they cost a tenth of a search."""
        found = self._made_parameters.get(effort)
        if found is None:
            found = self._made_parameters[effort] = search_parameters(self.index, effort=effort)
        return found

    @cached_property
    def _made_parameters(self) -> dict[int, Any]:
        return {}

    def _scanned(self, queries: FloatArray, k: int, mask: BoolArray | None) -> IntArray:
        """Positions [Q, M] by brute force over the allowed items."""
        if mask is None:
            return scan(queries, self.vectors, k, self.metric)
        allowed = np.flatnonzero(mask)
        return allowed[scan(queries, self.vectors[allowed], k, self.metric)]


def _selector(mask: BoolArray) -> Any:
    return import_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def _with_rows(positions: IntArray, rows: BoolArray, replacement: IntArray) -> IntArray:
    """Positions [Q, M] with some rows replaced by wider or narrower ones [R, M'], padded with -1."""
    out = np.full((len(positions), max(positions.shape[1], replacement.shape[1])), -1, dtype=np.int64)
    out[:, : positions.shape[1]] = positions
    out[rows] = -1
    out[rows, : replacement.shape[1]] = replacement
    return out
