"""Generative recommendation: interactions and a catalogue in, recommendations a language model writes out.

The names below are the library's surface; each is imported from its module when it is first used, so that
`import recsys` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.data.dataset import Dataset, load_dataset
    from recsys.embeddings.config import EmbedConfig
    from recsys.embeddings.text import text_vectors
    from recsys.errors import RecsysError
    from recsys.evaluation.evaluation import evaluate
    from recsys.llm.config import FinetuneConfig
    from recsys.ranking.recommender import RankedItem
    from recsys.tables import Catalog, Interactions, Rankings, SemanticIds
    from recsys.tokenization.config import TokenizeConfig
    from recsys.tokenization.tokenizer import fit_rqvae

__all__ = [
    "Catalog",
    "Dataset",
    "EmbedConfig",
    "FinetuneConfig",
    "Interactions",
    "RankedItem",
    "Rankings",
    "Recommender",
    "RecsysError",
    "SemanticIds",
    "TokenizeConfig",
    "evaluate",
    "fit_rqvae",
    "load_dataset",
    "text_vectors",
]

_HOMES = {
    "data.dataset": ("Dataset", "load_dataset"),
    "embeddings.config": ("EmbedConfig",),
    "embeddings.text": ("text_vectors",),
    "errors": ("RecsysError",),
    "evaluation.evaluation": ("evaluate",),
    "llm.config": ("FinetuneConfig",),
    "ranking.recommender": ("RankedItem",),
    "tables": ("Catalog", "Interactions", "Rankings", "SemanticIds"),
    "tokenization.config": ("TokenizeConfig",),
    "tokenization.tokenizer": ("fit_rqvae",),
}


def __getattr__(name: str) -> Any:
    if name == "Recommender":  # the one name that runs the stages; by its path, since no module here imports them
        return import_module("pipelines.estimator").Recommender
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"recsys.{home}"), name)
    raise AttributeError(f"module 'recsys' has no attribute {name!r}")
