"""Beyond-accuracy measures of recommendation lists: coverage, popularity, novelty, diversity, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.slices import Categories
from recsys.metrics import FloatArray, IntArray
from recsys.tables import BoolArray, Histories

SMOOTHING = 0.01  # share of the history's distribution mixed into the list's, so that the divergence stays finite


@dataclass(frozen=True)
class Beyond:
    """Measures of one system's lists; None where there is nothing to compute them from.

    Attributes:
        coverage: share of the catalogue that is in at least one list.
        gini: inequality of item exposure over the whole catalogue; 0 = equal, towards 1 = one item only.
        popularity: mean training interactions of the recommended items.
        popularity_lift: mean popularity of a list, averaged over users, divided by that of histories; 1 = as popular.
        novelty: mean self-information of recommended items, in bits of their (add-one smoothed) share in training.
        diversity: mean share of a list's pairs that are of different categories.
        miscalibration: mean Kullback-Leibler divergence, in bits, of a list's category distribution from its history's
            (Steck, Calibrated recommendations, RecSys 2018, section 3).
        seen: share of recommended items that are in the user's history.
    """

    coverage: float
    gini: float
    popularity: float | None
    popularity_lift: float | None
    novelty: float | None
    diversity: float | None
    miscalibration: float | None
    seen: float | None


def beyond_accuracy(
    items: IntArray, *, histories: Histories, popularity: IntArray, categories: Categories | None
) -> Beyond:
    """Measure the lists `items [U, K]` (-1 = padding) of the users of `histories`.

    `popularity [N]` counts training interactions an item.
    """
    shown = items >= 0
    flat = items[shown]
    num_items = len(popularity)
    exposure = np.bincount(flat, minlength=num_items)
    share = (popularity + 1) / (popularity.sum() + num_items)
    return Beyond(
        coverage=float((exposure > 0).mean()) if num_items else 0.0,
        gini=gini(exposure),
        popularity=_mean(popularity[flat]),
        popularity_lift=_lift(items, histories, popularity),
        novelty=_mean(-np.log2(share[flat])),
        diversity=_diversity(items, categories) if categories else None,
        miscalibration=_miscalibration(items, histories, categories) if categories else None,
        seen=_mean(_seen(items, histories, num_items)[shown]),
    )


def _seen(items: IntArray, histories: Histories, num_items: int) -> BoolArray:
    """Whether each of `items [U, K]` is in its user's history."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    own = np.sort(np.append(owner * num_items + histories.items, len(items) * num_items))  # the last ends the search
    keys = np.arange(len(items))[:, None] * num_items + items
    return np.asarray(own[np.searchsorted(own, keys)] == keys)


def gini(counts: IntArray) -> float:
    """Gini coefficient of non-negative counts; 0 where all are zero."""
    total = counts.sum()
    if not total:
        return 0.0
    number = len(counts)
    ranks = np.arange(1, number + 1)
    return float((2 * ranks - number - 1) @ np.sort(counts) / (number * total))


def _mean(values: FloatArray | IntArray | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float | None:
    return float(values.mean()) if len(values) else None


def _lift(items: IntArray, histories: Histories, popularity: IntArray) -> float | None:
    counted = np.append(popularity, 0)  # index -1 is padding
    lengths = (items >= 0).sum(axis=1)
    both = (lengths > 0) & (histories.lengths > 0)
    if not both.any():
        return None
    listed = counted[items].sum(axis=1)[both] / lengths[both]
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    sums = np.bincount(owner, weights=popularity[histories.items], minlength=len(histories))
    consumed = sums[both] / histories.lengths[both]
    return float(listed.mean() / consumed.mean()) if consumed.mean() > 0 else None


def _category_counts(items: IntArray, categories: Categories) -> FloatArray:
    """How many of each row's items are of each category, `[U, C]`; items without a category do not count."""
    codes = np.append(categories.codes, -1)[items]
    rows = np.broadcast_to(np.arange(len(items))[:, None], items.shape)
    return _count(rows[codes >= 0], codes[codes >= 0], len(items), len(categories.labels))


def _count(rows: IntArray, codes: IntArray, num_rows: int, num_codes: int) -> FloatArray:
    counts = np.bincount(rows * num_codes + codes, minlength=num_rows * num_codes)
    return counts.reshape(num_rows, num_codes).astype(np.float64)


def _diversity(items: IntArray, categories: Categories) -> float | None:
    counts = _category_counts(items, categories)
    size = counts.sum(axis=1)
    pairs = size * (size - 1)
    same = (counts * (counts - 1)).sum(axis=1)
    return _mean(1 - same[pairs > 0] / pairs[pairs > 0])


def _miscalibration(items: IntArray, histories: Histories, categories: Categories) -> float | None:
    listed = _category_counts(items, categories)
    codes = categories.codes[histories.items]
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    consumed = _count(owner[codes >= 0], codes[codes >= 0], len(histories), len(categories.labels))
    both = (listed.sum(axis=1) > 0) & (consumed.sum(axis=1) > 0)
    p = consumed[both] / consumed[both].sum(axis=1, keepdims=True)
    q = (1 - SMOOTHING) * listed[both] / listed[both].sum(axis=1, keepdims=True) + SMOOTHING * p
    terms = np.where(p > 0, p * np.log2(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0.0)
    return _mean(terms.sum(axis=1))
