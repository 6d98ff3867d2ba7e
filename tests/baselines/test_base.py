"""Many histories are ranked some at a time."""

import numpy as np
import pytest

from recsys.baselines import base
from recsys.baselines.base import rank_among, rank_by_scores
from recsys.tables import CandidateFilter, IntArray


def test_many_batches_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((9, 8)).astype(np.float32)
    candidates = CandidateFilter([rng.integers(0, 8, size=user) for user in range(9)], rng.random(8) < 0.8)
    sizes: list[int] = []

    def some(rows: IntArray) -> np.ndarray:
        sizes.append(len(rows))
        return scores[rows]

    whole = rank_by_scores(some, 9, num_items=8, k=5, candidates=candidates)
    monkeypatch.setattr(base, "SCORES_PER_BATCH", 20)
    batches = rank_by_scores(some, 9, num_items=8, k=5, candidates=candidates)
    assert sizes == [9, 2, 2, 2, 2, 1]
    np.testing.assert_array_equal(batches.items, whole.items)
    np.testing.assert_array_equal(batches.scores, whole.scores)


def test_several_filters_get_the_same_scores_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((9, 8)).astype(np.float32)
    # Whatever the order: a filter must not see what another one has removed.
    filters = [CandidateFilter([rng.integers(0, 8, size=user) for user in range(9)]), CandidateFilter()]
    computed: list[int] = []

    def some(rows: IntArray) -> np.ndarray:
        computed.extend(rows.tolist())
        return scores[rows]

    monkeypatch.setattr(base, "SCORES_PER_BATCH", 20)
    found = rank_among(filters, some, 9, num_items=8, k=5)
    assert computed == list(range(9))
    for top, candidates in zip(found, filters, strict=True):
        alone = rank_by_scores(lambda rows: scores[rows], 9, num_items=8, k=5, candidates=candidates)
        np.testing.assert_array_equal(top.items, alone.items)
        np.testing.assert_array_equal(top.scores, alone.scores)
