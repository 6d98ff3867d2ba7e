"""Parameters that are chosen on a grid. Where the best value lies at an edge, the grid is widened beyond it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple


@dataclass(frozen=True)
class Grid:
    """The values of a parameter by number; number 0 is the one that is preferred where it does not matter.

    Those from `first` to `last` are tried in any case, and none below `lowest` or above `highest`.
    """

    first: int
    last: int
    lowest: int
    highest: int
    value: Callable[[int], float]


def steps(size: float, first: int, last: int, lowest: int, highest: int) -> Grid:
    """Multiples of `size`; the limits are numbers of steps."""
    return Grid(first, last, lowest, highest, lambda number: round(number * size, 10))


def ratios(ratio: float, first: int, last: int, lowest: int, highest: int) -> Grid:
    """Powers of `ratio`; the limits are exponents."""
    return Grid(first, last, lowest, highest, lambda number: ratio**number)


class Choice(NamedTuple):
    """The best values and what they reach; those `at_edge` might be better still beyond the last value allowed."""

    values: dict[str, float]
    score: float
    at_edge: tuple[str, ...]


def choose(grids: Mapping[str, Grid], score: Callable[[Mapping[str, float]], float]) -> Choice:
    """The values with the highest score; of equals those nearest to the numbers 0.

    All combinations are tried. As long as the best value of a parameter is the first or the last of those tried, the
    next one beyond it is tried too, with all values of the others.

    Args:
        score: of one value a parameter, higher is better.
    """
    names, tried = list(grids), dict[tuple[int, ...], float]()
    ends = {name: (grid.first, grid.last) for name, grid in grids.items()}
    while True:
        for numbers in product(*(range(first, last + 1) for first, last in ends.values())):
            if numbers not in tried:
                tried[numbers] = score(_values(grids, numbers))
        best = max(tried, key=lambda numbers: (tried[numbers], -sum(map(abs, numbers))))
        chosen = dict(zip(names, best, strict=True))
        wider = {name: _widened(grids[name], ends[name], chosen[name]) for name in names}
        if wider == ends:
            at_edge = tuple(name for name in names if chosen[name] in ends[name])
            return Choice(_values(grids, best), tried[best], at_edge)
        ends = wider


def _values(grids: Mapping[str, Grid], numbers: tuple[int, ...]) -> dict[str, float]:
    return {name: grid.value(number) for (name, grid), number in zip(grids.items(), numbers, strict=True)}


def _widened(grid: Grid, ends: tuple[int, int], best: int) -> tuple[int, int]:
    """The first and the last number to try, one beyond `best` where that is one of them, within the limits."""
    first, last = ends
    return max(grid.lowest, first - (best == first)), min(grid.highest, last + (best == last))
