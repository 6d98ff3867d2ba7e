"""Statistical significance: bootstrap over users, sign-flip permutation test, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.metrics import FloatArray

VALUES_A_BLOCK = 4_000_000


def bootstrap_means(values: FloatArray, *, resamples: int, generator: np.random.Generator) -> FloatArray:
    """Means of the columns of `values [U, M]` over users drawn with replacement, `[resamples, M]`.

    Columns share their draws, so the difference of two columns is a paired bootstrap of their difference.
    """
    num_users = len(values)
    # Users without any hit add nothing to a sum, so only the others are drawn: their number is binomial, which of them
    # a draw hits is uniform.
    scoring = values[values.any(axis=1)]
    if not len(scoring):
        return np.zeros((resamples, values.shape[1]))
    block = max(1, VALUES_A_BLOCK // len(scoring))
    parts = []
    for start in range(0, resamples, block):
        sizes = generator.binomial(num_users, len(scoring) / num_users, size=min(block, resamples - start))
        rows = np.repeat(np.arange(len(sizes)), sizes)
        draws = rows * len(scoring) + generator.integers(0, len(scoring), size=len(rows))
        counts = np.bincount(draws, minlength=len(sizes) * len(scoring)).reshape(len(sizes), len(scoring))
        parts.append(counts.astype(np.float64) @ scoring / num_users)
    return np.concatenate(parts)


def percentile_interval(samples: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper ends, `[M]` each, of the percentile interval of bootstrap samples `[R, M]`."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def sign_flip_p_value(differences: FloatArray, *, resamples: int, generator: np.random.Generator) -> float:
    """Two-sided p-value of the paired permutation test that the mean of `differences [U]` is 0.

    Under the null hypothesis each user's difference is as likely with either sign. The observed arrangement counts as
    one of the permutations, so the value is never 0 (Phipson and Smyth, 2010).
    """
    effective = differences[differences != 0]
    if not len(effective):
        return 1.0
    observed = abs(effective.sum())
    block = max(1, VALUES_A_BLOCK // len(effective))
    extreme = 0
    for start in range(0, resamples, block):
        signs = generator.integers(0, 2, size=(min(block, resamples - start), len(effective)), dtype=np.int8) * 2 - 1
        sums = np.abs(signs.astype(np.float64) @ effective)
        # Sums that are mathematically equal differ in their last bits.
        extreme += int((sums >= observed - 1e-9 * np.abs(effective).sum()).sum())
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, which controls the family-wise error rate."""
    count = len(p_values)
    adjusted = [0.0] * count
    highest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
