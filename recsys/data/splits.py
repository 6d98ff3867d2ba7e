"""Train, validation and test splits of interactions, on sorted integer columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.tables import TEST, TRAIN, UNUSED, VALIDATION

Integers = npt.NDArray[np.integer]
Splits = npt.NDArray[np.int8]


def leave_one_out(users: Integers) -> Splits:
    """Split [R] for sorted rows: each user's last is TEST, the one before VALIDATION, the rest TRAIN.

    Two interactions give TRAIN and TEST, a single one TRAIN.
    """
    position, length = _positions(users)
    from_end = length - 1 - position
    splits = np.full(len(users), TRAIN, dtype=np.int8)
    splits[(from_end == 0) & (length >= 2)] = TEST
    splits[(from_end == 1) & (length >= 3)] = VALIDATION
    return splits


def by_time(users: Integers, times: Integers, *, validation_share: float, test_share: float) -> Splits:
    """Split [R] of sorted rows at two moments, the same for all users.

    The newest `test_share` of the interactions form the test window, `validation_share` before it the validation
    window. A user's target in a window is the first interaction in it, the others are UNUSED; so is a first interaction
    without a history before it.

    Raises:
        DataError: a split is empty.
    """
    ordered = np.sort(times)
    moments = [ordered[int(len(times) * share)] for share in (1 - validation_share - test_share, 1 - test_share)]
    windows = np.searchsorted(moments, times, side="right")
    position, _ = _positions(users)
    enters = np.diff(windows, prepend=0) != 0
    splits = np.full(len(users), UNUSED, dtype=np.int8)
    splits[windows == 0] = TRAIN
    for window, split in ((1, VALIDATION), (2, TEST)):
        splits[(windows == window) & enters & (position > 0)] = split
    for split, name in ((TRAIN, "training rows"), (VALIDATION, "validation targets"), (TEST, "test targets")):
        if not (splits == split).any():
            raise DataError(
                f"the time split leaves no {name} (windows begin at {moments[0]} and {moments[1]}); change "
                "prepare.validation_share and prepare.test_share, or use prepare.split=leave-one-out"
            )
    return splits


def _positions(users: Integers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each row's position in its user's sequence, and the length of that sequence."""
    starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    lengths = np.diff(starts, append=len(users))
    position: npt.NDArray[np.int64] = np.arange(len(users)) - np.repeat(starts, lengths)
    return position, np.repeat(lengths, lengths)
