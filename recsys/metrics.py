"""Ranking metrics with one relevant item a user, in numpy: shared by validation during training and by the report."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NOT_FOUND = 0


class TopK(NamedTuple):
    """Means over users, each in 0..1."""

    hr: float
    ndcg: float
    mrr: float


def target_ranks(items: IntArray, targets: IntArray) -> IntArray:
    """The rank, from 1, of each user's target; `NOT_FOUND` where it is absent.

    Args:
        items: `[U, K]` item indices, best first, -1 = padding.
        targets: `[U]` item indices; a negative target is never found.
    """
    hits = (items == targets[:, None]) & (targets[:, None] >= 0)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, NOT_FOUND).astype(np.int64)


def top_k_per_user(ranks: IntArray, *, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """HR, NDCG and MRR at `k` of every user, `[U]` each, from `target_ranks`.

    With one relevant item the ideal DCG is 1, so NDCG is 1 / log2(1 + rank) and HR is Recall.
    """
    hit = (ranks != NOT_FOUND) & (ranks <= k)
    safe = np.maximum(ranks, 1)
    return hit.astype(np.float64), np.where(hit, 1 / np.log2(1 + safe), 0.0), np.where(hit, 1 / safe, 0.0)


def top_k_metrics(items: IntArray, targets: IntArray, *, k: int) -> TopK:
    """HR, NDCG and MRR at `k` over all users; a missing target is a miss.

    Args:
        items: `[U, >=k]` item indices, best first, -1 = padding.
        targets: `[U]` item indices.
    """
    if not len(targets):
        return TopK(0.0, 0.0, 0.0)
    hr, ndcg, mrr = top_k_per_user(target_ranks(items[:, :k], targets), k=k)
    return TopK(float(hr.mean()), float(ndcg.mean()), float(mrr.mean()))


def summed_gains(scores: npt.NDArray[np.floating], columns: IntArray, *, k: int) -> float:
    """The sum over users of NDCG at `k`, without sorting: how many columns come before that of the target.

    Args:
        scores: `[U, C]`, higher is better; of equal ones the first comes first.
        columns: `[U]` of each user's target.
    """
    own = scores[np.arange(len(columns)), columns][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < columns[:, None]))
    return float(top_k_per_user(before.sum(axis=1) + 1, k=k)[1].sum())
