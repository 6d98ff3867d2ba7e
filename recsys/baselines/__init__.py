"""Baselines that score the whole catalogue; imported from their modules when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.baselines.base import ScoringModel
    from recsys.baselines.config import SasrecConfig
    from recsys.baselines.item_knn import ItemKnn, fit_item_knn
    from recsys.baselines.popularity import Popularity, fit_popularity
    from recsys.baselines.sasrec import Sasrec
    from recsys.baselines.sasrec_training import fit_sasrec

__all__ = [
    "ItemKnn",
    "Popularity",
    "Sasrec",
    "SasrecConfig",
    "ScoringModel",
    "fit_item_knn",
    "fit_popularity",
    "fit_sasrec",
]

_MODULES = {
    "base": ("ScoringModel",),
    "config": ("SasrecConfig",),
    "item_knn": ("ItemKnn", "fit_item_knn"),
    "popularity": ("Popularity", "fit_popularity"),
    "sasrec": ("Sasrec",),
    "sasrec_training": ("fit_sasrec",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
