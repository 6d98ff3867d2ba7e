"""Ranking metrics against values counted by hand and against a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.metrics import summed_gains, target_ranks, top_k_metrics


def test_values_counted_by_hand() -> None:
    items = np.array([[7, 3, 5], [4, 2, 9], [1, 0, 8], [6, -1, -1]])
    found = top_k_metrics(items, np.array([7, 9, 5, 2]), k=3)
    assert found.hr == 2 / 4
    assert found.ndcg == pytest.approx((1 + 1 / 2) / 4)  # 1 / log2(1 + 3) = 1/2
    assert found.mrr == pytest.approx((1 + 1 / 3) / 4)


def test_only_the_first_k_ranks_count() -> None:
    assert top_k_metrics(np.array([[4, 2, 9]]), np.array([9]), k=2) == (0.0, 0.0, 0.0)


def test_no_users_give_zero() -> None:
    assert top_k_metrics(np.zeros((0, 5), np.int64), np.zeros(0, np.int64), k=5) == (0.0, 0.0, 0.0)


def test_padding_never_matches_a_missing_target() -> None:
    assert target_ranks(np.array([[-1, 3]]), np.array([-1])).tolist() == [0]


@settings(deadline=None, max_examples=40)
@given(
    lists=st.lists(st.lists(st.integers(-1, 6), min_size=4, max_size=4), min_size=1, max_size=6),
    k=st.integers(1, 4),
    data=st.data(),
)
def test_agrees_with_a_naive_loop(lists: list[list[int]], k: int, data: st.DataObject) -> None:
    targets = [data.draw(st.integers(0, 6)) for _ in lists]
    ranks = [
        row[:k].index(target) + 1 if target in row[:k] else None for row, target in zip(lists, targets, strict=True)
    ]
    found = top_k_metrics(np.array(lists), np.array(targets), k=k)
    assert found.hr == pytest.approx(sum(p is not None for p in ranks) / len(lists))
    assert found.ndcg == pytest.approx(sum(1 / math.log2(1 + p) for p in ranks if p) / len(lists))
    assert found.mrr == pytest.approx(sum(1 / p for p in ranks if p) / len(lists))


def test_gains_are_counted_as_by_sorting() -> None:
    scores = np.array([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-np.inf, 1.0, 2.0, 3.0]])
    columns = np.array([2, 3, 1])  # second behind its equal, fourth of equals, third
    by_hand = [1 / np.log2(3), 0, 1 / np.log2(4)]
    assert summed_gains(scores, columns, k=3) == pytest.approx(sum(by_hand))
    assert summed_gains(scores, columns, k=4) == pytest.approx(sum(by_hand) + 1 / np.log2(5))
    assert summed_gains(scores[:0], columns[:0], k=3) == 0
