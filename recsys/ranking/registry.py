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
ITEM_SCORED = "generative-item-scored"
REGRESSION, CROSS_ENTROPY, ONE_SAMPLE, DIFFUSION = "regression", "cross-entropy", "diffusion-one-sample", "diffusion"


class RankerSpec(NamedTuple):
    """How a ranker comes to be.

    `build` gives None where a run, or a bundle, has not what the ranker needs. `fit` writes what it learns from a run
    itself into a folder, which is kept with the rankings and goes into bundles; `build` finds it by
    `RankingContext.fitted`. A ranker that reads other rankings of the batch names them: it cannot do without those it
    `needs`, and `reads` others where they are. Not `seeded` is a ranker of the dataset and the section `recommend`
    alone, which reads no trained model: the runs of several seeds share what it fitted and ranked.
    """

    build: Callable[[RankingContext], Ranker | None]
    fit: Callable[[RankingContext, Path], None] | None = None
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
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
    ITEM_SCORED: RankerSpec(_imported("item_scored")),
    REGRESSION: RankerSpec(_imported("diffusion", "build_regression")),
    CROSS_ENTROPY: RankerSpec(_imported("cross_entropy")),
    ONE_SAMPLE: RankerSpec(_imported("diffusion", num_samples=1)),
    DIFFUSION: RankerSpec(_imported("diffusion")),
}


def with_terms(base: str) -> str:
    """The name of the row that re-orders a ranker's list; it stands in files, keys of metrics and column headings."""
    return f"{base}-with-terms"


def base_rankers() -> dict[str, RankerSpec]:
    """The registry, with what installed packages add."""
    return RANKERS | _installed()


def rankers() -> dict[str, RankerSpec]:
    """All of them, and behind them the row with terms of each, which exists where the configuration asks for it."""
    own = base_rankers()
    return own | {
        with_terms(name): RankerSpec(_imported("terms", base=name), needs=(name,), reads=(GENERATIVE,)) for name in own
    }


def with_needed(names: Iterable[str]) -> list[str]:
    """Some rankers and those whose rankings they read, in the registry's order."""
    specs, wanted, left = rankers(), set[str](), list(names)
    while left:
        name = left.pop()
        if name in specs and name not in wanted:
            wanted.add(name)
            left += [*specs[name].needs, *specs[name].reads]
    return [name for name in specs if name in wanted]


@cache
def _installed() -> dict[str, RankerSpec]:
    return {entry.name: entry.load() for entry in entry_points(group="recsys.rankers")}


def build_rankers(context: RankingContext, names: Iterable[str] | None = None) -> dict[str, Ranker]:
    """The rankers that a run, or a bundle, can offer, in the registry's order.

    Args:
        names: only these, and those whose rankings they read; by default all.
    """
    specs: dict[str, RankerSpec] = rankers()
    found: dict[str, Ranker] = {}
    for name in specs if names is None else with_needed(names):
        ranker = specs[name].build(context) if found.keys() >= {*specs[name].needs} else None
        if ranker is not None:
            found[name] = ranker
    return found


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
