"""The search effort of an index: the smallest efSearch or nprobe that reaches a target recall on queries.

Results are compared by exact distances, so that each of several identical items counts as correct.
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

_STEP, _STRIDE = 1.1, 7  # efforts 10 % apart; every seventh, about a doubling, is tried first
_ROUNDING = 1e-5

logger = logging.getLogger(__name__)


class TunedEffort(NamedTuple):
    """The chosen effort and its mean recall, measured against exact search."""

    effort: int
    recall: float


def recalls(found: FloatArray, truth: FloatArray) -> FloatArray:
    """Recall [Q] of a search against exact search, from the distances [Q, k] of both."""
    furthest = truth[:, -1:]
    near = (found <= furthest + _ROUNDING * np.abs(furthest)).sum(axis=1)
    shares: FloatArray = (np.minimum(near, truth.shape[1]) / truth.shape[1]).astype(np.float32)
    return shares


def efforts(name: str | None, most: int) -> list[int]:
    """Ascending efforts to choose from, up to `most`; [1] for an index without such a parameter.

    An efSearch below k is allowed: the graph search stops earlier and fills its result with visited items.
    """
    if name is None:
        return [1]
    tried = [1]
    while tried[-1] < most:
        tried.append(min(most, math.ceil(tried[-1] * _STEP)))
    return tried


def tuned_effort(
    search: Callable[[int], FloatArray], truth: FloatArray, tried: Sequence[int], target: float
) -> TunedEffort:
    """The smallest effort whose recall exceeds the target by a standard error, or the largest effort.

    Args:
        search: effort -> distances [Q, k], ascending.
        truth: distances [Q, k] of exact search, ascending.
        tried: efforts, ascending.
    """

    @cache
    def reached(effort: int) -> tuple[bool, float]:
        shares = recalls(search(effort), truth)
        recall = float(shares.mean())
        return recall - float(shares.std()) / math.sqrt(len(shares)) >= target, recall

    last = len(tried) - 1
    top = next((index for index in range(0, last, _STRIDE) if reached(tried[index])[0]), last)
    bottom = max(0, top - _STRIDE)
    chosen = tried[bisect_left(tried, True, bottom, top, key=lambda effort: reached(effort)[0])]
    enough, recall = reached(chosen)
    if not enough:
        logger.warning(
            "the index reaches a recall of %.4f, the target is %.4f; choose another index.kind", recall, target
        )
    return TunedEffort(chosen, recall)
