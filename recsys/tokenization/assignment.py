"""Unique codes for every item, guaranteed: capacity at every level, linear assignment on the last.

A prefix of h of L codes has room for K^(L-h) items. Level by level, items beyond a code's room, those farthest from it,
re-choose by the next-best code that has room; on the last level, where a code has room for one, each bucket in which
two items want the same code is solved as a rectangular linear assignment (items x codes, cost = squared distance).
So identical vectors still get distinct codes, and within a prefix the last codes are the assignment of least total
cost; an item may be moved off its nearest code where that lowers the total.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray

_CHUNK = 65_536


def unique_codes(latents: FloatArray, codebooks: FloatArray) -> IntArray:
    """Distinct codes for every row, each as near to its residual quantization as uniqueness allows.

    Deterministic; equal rows are distinguished by their order, so callers sort by item id.

    Args:
        latents: [N, d].
        codebooks: [L, K, d].

    Returns:
        [N, L], rows distinct.

    Raises:
        DataError: there are more items than tuples of codes, K^L.
    """
    levels, num_codes, _ = codebooks.shape
    if len(latents) > num_codes**levels:
        raise DataError(
            f"{len(latents)} items do not fit {levels} levels of {num_codes} codes, which name {num_codes**levels}; "
            "raise tokenize.num_levels or tokenize.codebook_size"
        )
    codes = np.empty((len(latents), levels), dtype=np.int64)
    residual = latents.astype(np.float32, copy=True)
    parents = np.zeros(len(latents), dtype=np.int64)
    for level, codebook in enumerate(codebooks):
        chosen = nearest_codes(residual, codebook)
        room = num_codes ** (levels - level - 1)
        for members in _crowded(parents, chosen, num_codes, room):
            chosen[members] = _assign(_costs(residual[members], codebook), room)
        codes[:, level] = chosen
        residual -= codebook[chosen]
        parents = np.unique(parents * num_codes + chosen, return_inverse=True)[1]
    return codes


def free_codes(latents: FloatArray, codebooks: FloatArray, taken: IntArray) -> IntArray:
    """Codes for new rows beside those that are in use, which stay as they are; the first row chooses first.

    Each level takes the nearest code whose prefix still has room, so that a free nearest id is always the one chosen.

    Args:
        latents: [M, d].
        codebooks: [L, K, d].
        taken: [N, L], rows distinct.

    Returns:
        [M, L], rows distinct and none of them taken.

    Raises:
        DataError: there are more items than tuples of codes, K^L.
    """
    levels, num_codes, _ = codebooks.shape
    if len(latents) + len(taken) > num_codes**levels:
        raise DataError(
            f"{len(latents)} new items beside {len(taken)} do not fit {levels} levels of {num_codes} codes; "
            "train a tokenizer with more levels or codes"
        )
    found = np.empty((len(latents), levels), dtype=np.int64)
    for row, latent in enumerate(latents):
        residual, siblings = latent.astype(np.float32), np.concatenate([taken, found[:row]])
        for level, codebook in enumerate(codebooks):
            used = np.bincount(siblings[:, level], minlength=num_codes)
            costs = np.where(used < num_codes ** (levels - level - 1), _costs(residual[None], codebook)[0], np.inf)
            code = found[row, level] = int(costs.argmin())
            residual = residual - codebook[code]
            siblings = siblings[siblings[:, level] == code]
    return found


def nearest_codes(residual: FloatArray, codebook: FloatArray) -> IntArray:
    """The nearest of a codebook's [K, d] rows for each residual [N, d], in bounded memory."""
    parts = [_costs(residual[i : i + _CHUNK], codebook).argmin(axis=1) for i in range(0, len(residual), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _costs(residual: FloatArray, codebook: FloatArray) -> FloatArray:
    """Squared distances [n, K], less each residual's own square, which no choice changes."""
    costs: FloatArray = np.square(codebook).sum(axis=1) - 2 * residual @ codebook.T
    return costs


def _crowded(parents: IntArray, chosen: IntArray, num_codes: int, room: int) -> list[IntArray]:
    """The members of every parent in which some code was chosen by more items than it has room for."""
    _, cells, counts = np.unique(parents * num_codes + chosen, return_inverse=True, return_counts=True)
    over = np.unique(parents[counts[cells] > room])
    members = np.flatnonzero(np.isin(parents, over))
    members = members[np.argsort(parents[members], kind="stable")]
    return np.split(members, np.flatnonzero(np.diff(parents[members])) + 1) if len(members) else []


def _assign(costs: FloatArray, room: int) -> IntArray:
    """A code for each row of costs [n, K], none chosen by more than `room` rows."""
    if room == 1:
        rows, columns = linear_sum_assignment(costs)
        assert len(rows) == len(costs)
        return columns.astype(np.int64)
    costs = costs.copy()
    assigned = np.full(len(costs), -1, dtype=np.int64)
    left = np.full(costs.shape[1], room, dtype=np.int64)
    pending = np.arange(len(costs))
    while len(pending):
        wanted = costs[pending].argmin(axis=1)
        order = np.lexsort((costs[pending, wanted], wanted))
        pending, wanted = pending[order], wanted[order]
        accepted = _rank_in_run(wanted) < left[wanted]
        assigned[pending[accepted]] = wanted[accepted]
        left -= np.bincount(wanted[accepted], minlength=len(left))
        costs[:, left == 0] = np.inf
        pending = np.sort(pending[~accepted])
    return assigned


def _rank_in_run(values: IntArray) -> npt.NDArray[np.int64]:
    """For sorted values, each one's position among its equals: 0, 1, ..."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
