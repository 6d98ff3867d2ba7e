"""All rankers there are, by the name that reports, configuration and answers show. A new one is one entry here.

Packages that are installed beside this one add theirs by an entry point of the group `recsys.rankers` that names a
`RankerSpec`.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from recsys.errors import ConfigError
from recsys.ranking import cross_entropy, diffusion, generative, item_knn, popularity, sequential
from recsys.ranking.base import Ranker
from recsys.ranking.loading import RankingContext

POPULARITY = "popularity"


class RankerSpec(NamedTuple):
    """How a ranker comes to be.

    `build` gives None where a run, or a bundle, has not what the ranker needs. `fit` writes what it learns from a run
    itself into a folder, which is kept with the rankings and goes into bundles; `build` finds it by
    `RankingContext.fitted`.
    """

    build: Callable[[RankingContext], Ranker | None]
    fit: Callable[[RankingContext, Path], None] | None = None


# In the order of ranking and of the report: a ranker may read the rankings of those before it.
RANKERS: dict[str, RankerSpec] = {
    POPULARITY: RankerSpec(popularity.build),
    item_knn.NAME: RankerSpec(item_knn.build, item_knn.fit),
    "sasrec": RankerSpec(sequential.build),
    generative.NAME: RankerSpec(generative.build),
    "regression": RankerSpec(diffusion.build_regression),
    "cross-entropy": RankerSpec(cross_entropy.build),
    "diffusion-one-sample": RankerSpec(partial(diffusion.build, num_samples=1)),
    "diffusion": RankerSpec(diffusion.build),
}


def rankers() -> dict[str, RankerSpec]:
    """The registry, with what installed packages add."""
    return RANKERS | _installed()


@cache
def _installed() -> dict[str, RankerSpec]:
    return {entry.name: entry.load() for entry in entry_points(group="recsys.rankers")}


def check_sources(names: Iterable[str]) -> None:
    """Refuse names of rankers that do not exist.

    Raises:
        ConfigError: with the nearest known name.
    """
    known = rankers()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"recommend.fusion.sources: no ranker is named '{name}'{hint}")


def build_rankers(context: RankingContext, names: Iterable[str] | None = None) -> dict[str, Ranker]:
    """The rankers that a run, or a bundle, can offer, in the registry's order.

    Args:
        names: only these; by default all.
    """
    wanted = None if names is None else set(names)
    found = {name: spec.build(context) for name, spec in rankers().items() if wanted is None or name in wanted}
    return {name: ranker for name, ranker in found.items() if ranker is not None}


def fit_rankers(context: RankingContext, root: Path) -> None:
    """Have every ranker that fits itself write its folder `root/NAME`, but for those that are there already."""
    root.mkdir(parents=True, exist_ok=True)
    for name, spec in rankers().items():
        if spec.fit is None or (root / name).exists():
            continue
        unfinished = root / f".{name}.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        spec.fit(context, unfinished)
        unfinished.rename(root / name)
