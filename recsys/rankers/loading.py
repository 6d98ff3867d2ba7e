"""A run's folders -> the ensemble that ranks with them; what the recommend stage and `Recommender` both call."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.joint import JointPreference, is_joint
from recsys.diffusion.preference import PreferenceModel
from recsys.llm.conditions import query_conditions
from recsys.llm.storage import LanguageModel, load_language_model
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import Ensemble, States
from recsys.rankers.generative import GenerativeRanker
from recsys.rankers.preference import Agreement, PreferenceRanker
from recsys.rankers.validation import interaction_counts
from recsys.retrieval.index import ItemIndex
from recsys.tables import Catalog, FloatArray, Histories, ItemVectors, SemanticIds
from recsys.tokenization.quality import item_categories


class Folders(NamedTuple):
    """Where the parts of both routes are: 01, 03/discrete, 03/continuous, 05, 06 and 07 of a run."""

    dataset: Path
    discrete: Path
    continuous: Path
    language_model: Path
    preference: Path
    item_index: Path


class _Parts(NamedTuple):
    language_model: LanguageModel
    preference: PreferenceModel
    states: States


def load_ensemble(folders: Folders, config: RecommendConfig, *, window: int, seed: int) -> Ensemble:
    """Both routes of a finished run, ready to rank.

    Args:
        window: newest items of a history that are looked at.
        seed: of the samples' noise.

    Raises:
        ArtifactError: a part is missing or damaged.
        ModelError: the backbone cannot be decoded as a tree.
    """
    dataset = Dataset.load(folders.dataset)
    ids = SemanticIds.load(folders.discrete / "semantic_ids.parquet")
    latents = ItemVectors.load(folders.continuous / "latents.parquet")
    if is_joint(folders.preference):
        parts = _joint(folders, dataset.catalog, ids, latents, window)
    else:
        parts = _frozen(folders, ids, window)
    generative = GenerativeRanker(parts.language_model, ids, beams=config.beams, batch_size=config.batch_size)
    training = training_histories(dataset.interactions, dataset.catalog)
    preference = PreferenceRanker(
        parts.preference,
        latents=latents.vectors,
        index=ItemIndex.load(folders.item_index),
        counts=interaction_counts(training.items, len(dataset.catalog)),
        agreement=Agreement.of_labels(item_categories(dataset.catalog)),
        nearest=config.nearest,
        seed=seed,
    )
    cross_entropy = QueryHead.load(folders.preference, "cross_entropy")
    return Ensemble(
        generative, preference, cross_entropy, states=parts.states, window=window, depth=config.fusion.depth
    )


def _frozen(folders: Folders, ids: SemanticIds, window: int) -> _Parts:
    language_model = load_language_model(folders.language_model)

    def states(histories: Histories) -> FloatArray:
        found: FloatArray = query_conditions(language_model, ids, histories, window=window).numpy()
        return found

    return _Parts(language_model, PreferenceModel.load(folders.preference), states)


def _joint(folders: Folders, catalog: Catalog, ids: SemanticIds, latents: ItemVectors, window: int) -> _Parts:
    titles = catalog.titles() if PreferenceModel.load(folders.preference).config.titles else None
    joint = JointPreference.load(
        folders.preference, ids, latents.vectors, finetuned=folders.language_model, titles=titles
    )

    def states(histories: Histories) -> FloatArray:
        found: FloatArray = joint.query_conditions(histories, window=window).numpy()
        return found

    return _Parts(joint.language_model, joint.preference, states)
