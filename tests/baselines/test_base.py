"""The shared top-k: exact, and the same whatever a partition does with ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.baselines import base
from recsys.baselines.popularity import fit_popularity
from recsys.tables import Histories

VALUES = st.sampled_from([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 1.0, 3e38])


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (2, 7), elements=VALUES), st.integers(1, 9))
def test_equals_a_stable_sort(scores: np.ndarray, k: int) -> None:
    top = base.top_items(scores, k)
    for row, items, values in zip(scores, top.items, top.scores, strict=True):
        expected = [i for i in np.lexsort((np.arange(7), -row)) if row[i] > -np.inf][:k]
        assert items.tolist() == expected + [-1] * (k - len(expected))
        assert values[: len(expected)].tolist() == row[expected].tolist()


def test_ties_go_to_the_lower_index_in_a_wide_row() -> None:
    scores = np.zeros((1, 5000), dtype=np.float32)
    scores[0, 4000:] = 1
    assert base.top_items(scores, 20).items.tolist() == [list(range(4000, 4020))]


def test_many_batches_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    histories = Histories.from_lists([str(u) for u in range(9)], [rng.integers(0, 8, size=u) for u in range(9)])
    model = fit_popularity(histories, 8)
    whole = model.rank(histories, k=5, exclude_seen=True)
    monkeypatch.setattr(base, "SCORES_A_BATCH", 20)
    assert (model.rank(histories, k=5, exclude_seen=True).items == whole.items).all()
