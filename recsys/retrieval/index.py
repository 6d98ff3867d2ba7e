"""`ItemIndex`: nearest-neighbour search over items with any FAISS index, thread-safe during updates."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.retrieval.build import build_base
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.exact import SearchResult, checked_labels, checked_vectors
from recsys.retrieval.snapshot import Allowed, Snapshot
from recsys.retrieval.storage import Stored, load_index, save_index
from recsys.tables import FloatArray, IntArray


class ItemIndex:
    """An immutable base, a small exactly searched delta of added items, and a mask of removed ones; `compact` merges.

    A search reads one immutable snapshot; a change makes a new one under a lock and swaps the reference, so that no
    search sees half a change. An index belongs to the process that built or loaded it.
    """

    def __init__(self, stored: Stored) -> None:
        """Over a built or loaded state; see `build` and `load`."""
        self._snapshot, self._config = stored.snapshot, stored.config
        self._queries, self._seed = stored.queries, stored.seed
        self._changing, self._slow = threading.Lock(), threading.Lock()
        self._process = os.getpid()

    @classmethod
    def build(
        cls,
        vectors: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        config: IndexConfig | None = None,
        *,
        queries: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Self:
        """Index vectors and tune the search to the configured recall.

        Args:
            vectors: [N, D] numbers, finite.
            labels: [N] distinct integers from 0 up; the row numbers where left out.
            queries: [Q, D] real ones (user vectors, not items), to tune and to measure recall on, kept for `compact`;
                by default perturbed item vectors.
            seed: of k-means, and of the sample of queries.

        Raises:
            DataError: vectors, labels or queries cannot be used.
            ConfigError: FAISS refuses the factory string.
            DependencyError: FAISS is not installed.
        """
        config = config or IndexConfig()
        checked = checked_vectors(vectors, name="vectors", metric=config.metric)
        own = checked_labels(np.arange(len(checked)) if labels is None else labels, count=len(checked))
        sample = None
        if queries is not None:
            given = checked_vectors(queries, name="queries", metric=config.metric, width=checked.shape[1])
            sample = _sampled(given, config.num_tuning_queries, seed)
        base = build_base(own, checked, config, queries=sample, seed=seed)
        return cls(Stored(Snapshot.of(base), config, sample, seed))

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        state = self._snapshot
        effort = f", {state.base.effort_name} {self.effort}" if state.base.effort_name else ""
        return (
            f"<ItemIndex {state.base.factory} ({len(state)} items x {self.width}{effort}, "
            f"recall@{state.base.recall_at} {self.recall:.4f}, {len(state.delta.labels)} not compacted)>"
        )

    @property
    def snapshot(self) -> Snapshot:
        """The current state; searching it is not affected by later changes."""
        return self._snapshot

    @property
    def config(self) -> IndexConfig:
        return self._config

    @property
    def num_changes(self) -> int:
        """Additions and removals that a compaction would merge into the base."""
        state = self._snapshot
        removed = len(state.base) + len(state.delta.labels) - len(state)
        return len(state.delta.labels) + removed

    @property
    def width(self) -> int:
        """D."""
        return int(self._snapshot.base.vectors.shape[1])

    @property
    def kind(self) -> str:
        """The chosen kind, or `factory`."""
        return self._snapshot.base.kind

    @property
    def effort(self) -> int:
        """The tuned efSearch or nprobe of the base."""
        return self._snapshot.base.tuned.effort

    @property
    def recall(self) -> float:
        """Recall of the base at `config.recall_at` items against exact search, measured when it was built."""
        return self._snapshot.base.tuned.recall

    def search(self, queries: npt.ArrayLike, k: int, allowed: Allowed | None = None) -> SearchResult:
        """The k nearest items of each query; results do not depend on the batch.

        Args:
            queries: [Q, D] numbers, finite.
            k: items per query; padded with label -1 and distance inf.
            allowed: the only items to return: a set or integer array of labels, or a boolean mask [M] indexed by label
                (labels from M on are not allowed).

        Returns:
            Labels and distances [Q, k], nearest first, equal distances by label. Distances are exact, whatever the
            index: squared Euclidean, the negative inner product, or one minus the cosine.

        Raises:
            DataError: queries of another width, NaN or infinite ones, k below 1, or an invalid filter.
            RuntimeError: in a forked child of the index's process, where FAISS would hang.
        """
        self._check_process()
        if k < 1:
            raise DataError(f"k: got {k}, at least 1 is needed")
        checked = checked_vectors(queries, name="queries", metric=self._config.metric, width=self.width)
        return self._snapshot.search(checked, k, allowed)

    def add(self, labels: npt.ArrayLike, vectors: npt.ArrayLike) -> None:
        """Add items, visible to the next search; all or none.

        Raises:
            DataError: a label is in the index already, or the vectors cannot be used.
        """
        checked = checked_vectors(vectors, name="vectors", metric=self._config.metric, width=self.width)
        own = checked_labels(labels, count=len(checked))
        self._change(lambda snapshot: snapshot.adding(own, checked))

    def remove(self, labels: npt.ArrayLike) -> None:
        """Remove items, invisible to the next search; all or none.

        Raises:
            DataError: a label is not in the index.
        """
        own = checked_labels(labels)
        self._change(lambda snapshot: snapshot.removing(own))

    def compact(self) -> None:
        """Build and tune a new base of all items; concurrent searches and changes continue and are kept."""
        self._check_process()
        with self._slow:
            begun = self._snapshot
            live = begun.live()
            base = build_base(live.labels, live.vectors, self._config, queries=self._queries, seed=self._seed)
            self._change(lambda snapshot: snapshot.rebased(base, begun))

    def save(self, folder: Path, *, with_queries: bool = True) -> None:
        """Write the current state atomically.

        Tuning queries come from users; an index saved without them is later compacted with perturbed item vectors.
        """
        with self._slow:
            queries = self._queries if with_queries else None
            save_index(Stored(self._snapshot, self._config, queries, self._seed), folder)

    @classmethod
    def load(cls, folder: Path, *, memory_map: bool = True) -> Self:
        """What `save` wrote, every file verified and, by default, memory-mapped.

        Raises:
            ArtifactError: a file is missing, truncated, altered or of another version.
            DependencyError: FAISS is not installed.
        """
        return cls(load_index(folder, memory_map=memory_map))

    def _change(self, change: Callable[[Snapshot], Snapshot]) -> None:
        with self._changing:
            self._snapshot = change(self._snapshot)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("an index cannot be used in a forked process; spawn it and load the index there")


def _sampled(queries: FloatArray, most: int, seed: int) -> FloatArray:
    """At most `most` of the queries, drawn at random."""
    if len(queries) <= most:
        return queries
    chosen: IntArray = np.sort(np.random.default_rng(seed).choice(len(queries), most, replace=False))
    return queries[chosen]
