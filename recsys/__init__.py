"""Generative recommendation: interactions and a catalogue in, recommendations a language model writes out.

The names below are the library's surface; each is imported from its module when it is first used, so that
`import recsys` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.data.dataset import Dataset, load_dataset
    from recsys.errors import RecsysError
    from recsys.evaluation.evaluation import evaluate
    from recsys.ranking.recommender import RankedItem
    from recsys.tables import Catalog, Interactions, Rankings, SemanticIds

__all__ = [
    "Catalog",
    "Dataset",
    "Interactions",
    "RankedItem",
    "Rankings",
    "Recommender",
    "RecsysError",
    "SemanticIds",
    "evaluate",
    "load_dataset",
]

_MODULES = {
    "pipelines.estimator": ("Recommender",),  # it runs the stages; by its name, since no module here imports them
    "recsys.data.dataset": ("Dataset", "load_dataset"),
    "recsys.errors": ("RecsysError",),
    "recsys.evaluation.evaluation": ("evaluate",),
    "recsys.ranking.recommender": ("RankedItem",),
    "recsys.tables": ("Catalog", "Interactions", "Rankings", "SemanticIds"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'recsys' has no attribute {name!r}")
