"""How hard a search must try: the smallest efSearch or nprobe that reaches a recall target on queries.

Items are compared by their exact distances, so that of several identical items each counts as the right one.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from recsys.tables import FloatArray

_STEP, _STRIDE = 1.1, 7  # efforts a tenth apart; every seventh, about a doubling, is tried first
_ROUNDING = 1e-5

logger = logging.getLogger(__name__)


class Tuned(NamedTuple):
    """The chosen effort and the mean recall it was measured to have, against exact search."""

    effort: int
    recall: float


def recalls(found: FloatArray, truth: FloatArray) -> FloatArray:
    """The share [Q] of the exact k nearest that a search found, from both searches' distances [Q, k]."""
    furthest = truth[:, -1:]
    near = (found <= furthest + _ROUNDING * np.abs(furthest)).sum(axis=1)
    shares: FloatArray = (np.minimum(near, truth.shape[1]) / truth.shape[1]).astype(np.float32)
    return shares


def efforts(name: str | None, most: int) -> list[int]:
    """Efforts to choose from, rising to `most`; one where there is no parameter to choose.

    An efSearch below the number of items wanted is one too: a graph's search stops earlier, and fills its answer with
    what it passed.
    """
    if name is None:
        return [1]
    tried = [1]
    while tried[-1] < most:
        tried.append(min(most, math.ceil(tried[-1] * _STEP)))
    return tried


def tuned_effort(search: Callable[[int], FloatArray], truth: FloatArray, tried: Sequence[int], target: float) -> Tuned:
    """The smallest effort whose recall is above the target by a standard error, the largest where none is.

    Args:
        search: an effort -> distances [Q, k] of what it finds, ascending.
        truth: distances [Q, k] of exact search, ascending.
        tried: efforts, rising.
    """

    @cache
    def reached(effort: int) -> tuple[bool, float]:
        shares = recalls(search(effort), truth)
        recall = float(shares.mean())
        return recall - float(shares.std()) / math.sqrt(len(shares)) >= target, recall

    last = len(tried) - 1
    top = next((place for place in range(0, last, _STRIDE) if reached(tried[place])[0]), last)
    bottom = max(0, top - _STRIDE)
    chosen = tried[bisect_left(tried, True, bottom, top, key=lambda effort: reached(effort)[0])]
    enough, recall = reached(chosen)
    if not enough:
        logger.warning("the index reaches a recall of %.4f, %.4f was asked for; choose another kind", recall, target)
    return Tuned(chosen, recall)
