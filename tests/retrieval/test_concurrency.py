"""Searches during changes: every result is that of one snapshot."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recsys.retrieval import index as module
from recsys.retrieval.base import Base
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from tests.retrieval.conftest import clustered, odd_labels

FAR = 50.0


def test_searches_see_complete_changes_only(fresh: Callable[[], ItemIndex]) -> None:
    """Two items far from all others always come and go together; a search for them finds both or neither."""
    index, pair = fresh(), clustered(2) * 0.01 + FAR
    done = threading.Event()

    def search() -> set[int]:
        seen = set()
        while not done.is_set():
            labels = index.search(pair, 2).labels
            assert (labels >= 0).all()
            seen.add(int(np.isin(labels[0], [0, 2]).sum()))
        return seen

    def change() -> None:
        try:
            for turn in range(30):
                index.add([0, 2], pair)
                if turn % 10 == 5:
                    index.compact()
                index.remove([0, 2])
        finally:
            done.set()

    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(search) for _ in range(3)]
        pool.submit(change).result()
        assert all(future.result() <= {0, 2} for future in searches)
    assert len(index) == 300


def test_changes_by_many_threads_are_all_kept(fresh: Callable[[], ItemIndex]) -> None:
    index, vectors = fresh(), clustered(64)

    def work(part: int) -> None:
        for row in range(part, 64, 4):
            index.add([2 * row], vectors[row : row + 1])
            index.remove([2 * row + 1])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(index) == 300
    found = index.search(vectors, 1).labels[:, 0]
    np.testing.assert_array_equal(found, 2 * np.arange(64))


def test_changes_during_a_compaction_are_kept(monkeypatch: pytest.MonkeyPatch, fresh: Callable[[], ItemIndex]) -> None:
    index, vectors = fresh(), clustered(12, seed=5) + FAR
    index.add([0, 2, 4], vectors[:3])
    index.remove([1])
    build = module.build_base

    def meanwhile(*arguments: object, **options: object) -> Base:
        base: Base = build(*arguments, **options)  # type: ignore[arg-type]
        index.add([8], vectors[7:8])  # stays
        index.add([6, 1], vectors[3:5])  # new, and back after its removal
        index.remove([2, 3, 5])  # of the delta, and of the base
        index.add([2, 3], vectors[5:7])  # back, elsewhere
        index.remove([6])
        return base

    monkeypatch.setattr(module, "build_base", meanwhile)
    index.compact()
    expected = np.union1d(np.setdiff1d(odd_labels(300), [5]), [0, 2, 4, 8])
    np.testing.assert_array_equal(np.sort(index.search(vectors[:1], 400).labels[0, : len(index)]), expected)
    np.testing.assert_array_equal(index.search(vectors[[0, 2, 4, 5, 6]], 1).labels[:, 0], [0, 4, 1, 2, 3])
    monkeypatch.setattr(module, "build_base", build)
    index.compact()
    np.testing.assert_array_equal(np.sort(index.snapshot.base.labels), expected)


def test_a_forked_child_gets_an_error_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    index = ItemIndex.build(clustered(30), None, IndexConfig())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="forked"):
        index.search(clustered(1), 1)
