"""Statistical significance: bootstrap over users, and over seeds; sign-flip permutation test; Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.metrics import FloatArray, IntArray

VALUES_A_BLOCK = 4_000_000


def bootstrap_means(values: FloatArray, *, resamples: int, generator: np.random.Generator) -> FloatArray:
    """Means of the columns of `values [U, M]` over users drawn with replacement, `[resamples, M]`.

    Columns share their draws, so the difference of two columns is a paired bootstrap of their difference. How often
    users with equal rows are drawn is multinomial, so that time and memory grow with the number of different rows:
    metrics of one ranking have at most one row more than it has ranks.
    """
    num_users = len(values)
    rows, sizes = _distinct(values[values.any(axis=1)])  # all other users add nothing to a sum
    shares = np.append(sizes, num_users - sizes.sum()) / num_users
    parts = [
        generator.multinomial(num_users, shares, size=size)[:, :-1].astype(np.float64) @ rows / num_users
        for size in _blocks(resamples, len(rows))
    ]
    return np.concatenate(parts)


def _distinct(values: FloatArray) -> tuple[FloatArray, IntArray]:
    """The different rows of `values [U, M]`, and how many users have each; faster than numpy.unique along an axis."""
    ordered = values[np.lexsort(values.T)]
    changes = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(np.append(True, changes)) if len(values) else np.zeros(0, np.int64)
    return ordered[starts], np.diff(starts, append=len(values))


def _blocks(resamples: int, columns: int) -> list[int]:
    """Numbers of resamples to draw at once, so that a block of so many columns fits into memory."""
    size = max(1, VALUES_A_BLOCK // max(1, columns))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def bootstrap_means_of_seeds(values: FloatArray, *, resamples: int, generator: np.random.Generator) -> FloatArray:
    """Means of `values [R, U, M]` over seeds and users, both drawn with replacement, `[resamples, M]`.

    Every seed has the same users: the two are crossed, and drawn independently of each other (the pigeonhole bootstrap:
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). An interval of these samples is about other
    users and other trainings alike, on the same dataset. As the variance over R draws of R seeds would be too small by
    the factor (R - 1) / R, R - 1 seeds are drawn, with which it is that of the mean of R (McCarthy and Snowden, "The
    bootstrap and finite population sampling", 1985). What differs by user and seed alike counts three times, so
    that intervals are rather too wide than too narrow (Owen, 2007). Few seeds tell little about trainings: show the
    deviation over the seeds as well.

    Raises:
        ValueError: fewer than two seeds.
    """
    num_seeds, num_users, num_columns = values.shape
    if num_seeds < 2:
        raise ValueError(f"got {num_seeds} seed; two or more are needed to draw from")
    columns = values.transpose(1, 0, 2).reshape(num_users, num_seeds * num_columns)
    samples = bootstrap_means(columns, resamples=resamples, generator=generator)
    drawn = generator.multinomial(num_seeds - 1, np.full(num_seeds, 1 / num_seeds), size=resamples) / (num_seeds - 1)
    means: FloatArray = np.einsum("br,brm->bm", drawn, samples.reshape(resamples, num_seeds, num_columns))
    return means


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
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    # Sums that are mathematically equal differ in their last bits.
    observed = abs(differences.sum()) - 1e-9 * (counts @ sizes)
    extreme = 0
    for size in _blocks(resamples, len(sizes)):
        positive = generator.binomial(counts, 0.5, size=(size, len(sizes)))  # of each size of difference
        extreme += int((np.abs((2 * positive - counts) @ sizes) >= observed).sum())
    return (1 + extreme) / (1 + resamples)


def least_p_value(resamples: int) -> float:
    """The floor of `sign_flip_p_value`: what it gives where no resample is as extreme as what was observed."""
    return 1 / (1 + resamples)


class Corrected(NamedTuple):
    """A p-value after correction; `at_floor` says that it follows from one at the floor, which bounds it from above."""

    p: float
    at_floor: bool


def holm(p_values: Sequence[float], *, floor: float = 0.0) -> list[Corrected]:
    """Holm's step-down adjustment, which controls the family-wise error rate.

    Args:
        floor: the least p-value that the test can give.
    """
    count = len(p_values)
    adjusted = [Corrected(0.0, at_floor=False)] * count
    highest = Corrected(0.0, at_floor=False)
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        own = min(1.0, (count - rank) * p_values[index])
        if own > highest.p:
            highest = Corrected(own, at_floor=p_values[index] <= floor)
        adjusted[index] = highest
    return adjusted
