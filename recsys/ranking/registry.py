"""All rankers there are, by the name that reports, configuration and answers show. A new one is one entry here.

Packages that are installed beside this one add theirs by an entry point of the group `recsys.rankers` that names a
`RankerSpec`. Modules are imported when a ranker is built, so that the names are known without loading torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from recsys.ranking.base import Ranker
    from recsys.ranking.loading import RankingContext

POPULARITY, ITEM_KNN, SASREC, GENERATIVE = "popularity", "item-knn", "sasrec", "generative"
REGRESSION, CROSS_ENTROPY, ONE_SAMPLE, DIFFUSION = "regression", "cross-entropy", "diffusion-one-sample", "diffusion"


class RankerSpec(NamedTuple):
    """How a ranker comes to be.

    `build` gives None where a run, or a bundle, has not what the ranker needs. `fit` writes what it learns from a run
    itself into a folder, which is kept with the rankings and goes into bundles; `build` finds it by
    `RankingContext.fitted`. Not `seeded` is a ranker of the dataset and the section `recommend` alone, which reads no
    trained model and is read by no other ranker: the runs of several seeds have it fitted and ranked once.
    """

    build: Callable[[RankingContext], Ranker | None]
    fit: Callable[[RankingContext, Path], None] | None = None
    seeded: bool = True


def _imported(module: str, function: str = "build", **options: Any) -> Callable[..., Any]:
    """A function of `recsys.ranking.MODULE`, imported when it is called."""
    return lambda *args: getattr(import_module(f"recsys.ranking.{module}"), function)(*args, **options)


# In the order of ranking and of the report: a ranker may read the rankings of those before it.
RANKERS: dict[str, RankerSpec] = {
    POPULARITY: RankerSpec(_imported("popularity"), seeded=False),
    ITEM_KNN: RankerSpec(_imported("item_knn"), _imported("item_knn", "fit"), seeded=False),
    SASREC: RankerSpec(_imported("sequential")),
    GENERATIVE: RankerSpec(_imported("generative")),
    REGRESSION: RankerSpec(_imported("diffusion", "build_regression")),
    CROSS_ENTROPY: RankerSpec(_imported("cross_entropy")),
    ONE_SAMPLE: RankerSpec(_imported("diffusion", num_samples=1)),
    DIFFUSION: RankerSpec(_imported("diffusion")),
}


def rankers() -> dict[str, RankerSpec]:
    """The registry, with what installed packages add."""
    return RANKERS | _installed()


@cache
def _installed() -> dict[str, RankerSpec]:
    return {entry.name: entry.load() for entry in entry_points(group="recsys.rankers")}


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
