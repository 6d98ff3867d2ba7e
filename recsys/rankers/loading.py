"""A run's folders -> the ensemble that ranks with them; what the recommend stage and `Recommender` both call."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys.baselines.sasrec import Sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.diffusion.heads import QueryHead
from recsys.diffusion.joint import JointPreference, is_joint
from recsys.diffusion.preference import PreferenceModel
from recsys.fusion import SASREC
from recsys.llm.conditions import query_conditions
from recsys.llm.storage import LanguageModel, load_language_model
from recsys.rankers.collaborative import CollaborativeRanker, load_sasrec
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import Ensemble
from recsys.rankers.generative import GenerativeRanker
from recsys.rankers.preference import Agreement, PreferenceRanker
from recsys.rankers.validation import interaction_counts
from recsys.retrieval.index import ItemIndex
from recsys.tables import Catalog, FloatArray, Histories, IntArray, ItemVectors, SemanticIds
from recsys.tokenization.quality import item_categories


class Folders(NamedTuple):
    """Where the parts of both routes are: 01, 02, 03/discrete, 03/continuous, 05, 06 and 07 of a run."""

    dataset: Path
    embeddings: Path
    discrete: Path
    continuous: Path
    language_model: Path
    preference: Path
    item_index: Path


class Models(NamedTuple):
    """What was trained: `joint` is set where the adapter was trained together with the diffusion module.

    `sasrec` is None where items have no collaborative vectors.
    """

    language_model: LanguageModel
    preference: PreferenceModel
    cross_entropy: QueryHead
    joint: JointPreference | None
    sasrec: Sasrec | None

    @classmethod
    def load(cls, language_model: Path, preference: Path, embeddings: Path, items: Items) -> Models:
        """From the folders 05, 06 and 02 of a run.

        Raises:
            ArtifactError: a part is missing or damaged.
            ModelError: the pretrained backbone cannot be loaded any more.
        """
        cross_entropy, sasrec = QueryHead.load(preference, "cross_entropy"), load_sasrec(embeddings)
        if not is_joint(preference):
            model = PreferenceModel.load(preference)
            return cls(load_language_model(language_model), model, cross_entropy, None, sasrec)
        titles = items.catalog.titles() if PreferenceModel.load(preference).config.titles else None
        joint = JointPreference.load(
            preference, items.semantic_ids, items.latents, finetuned=language_model, titles=titles
        )
        return cls(joint.language_model, joint.preference, cross_entropy, joint, sasrec)


class Items(NamedTuple):
    """The catalogue, and what is known of each item in its order."""

    catalog: Catalog
    semantic_ids: SemanticIds
    latents: FloatArray  # [N, D]
    counts: IntArray  # [N] training interactions
    item_index: ItemIndex
    lenders: IntArray  # [N] items whose behaviour is theirs: themselves, but for later items; -1 is the mean of all


def load_ensemble(folders: Folders, config: RecommendConfig, *, window: int, seed: int) -> Ensemble:
    """Both routes of a finished run, and SASRec where it takes part, ready to rank.

    Args:
        window: newest items of a history that are looked at.
        seed: of the samples' noise.

    Raises:
        ArtifactError: a part is missing or damaged.
        ModelError: the backbone cannot be decoded as a tree.
    """
    dataset = Dataset.load(folders.dataset)
    training = training_histories(dataset.interactions, dataset.catalog)
    items = Items(
        dataset.catalog,
        SemanticIds.load(folders.discrete / "semantic_ids.parquet"),
        ItemVectors.load(folders.continuous / "latents.parquet").vectors,
        interaction_counts(training.items, len(dataset.catalog)),
        ItemIndex.load(folders.item_index),
        np.arange(len(dataset.catalog)),
    )
    models = Models.load(folders.language_model, folders.preference, folders.embeddings, items)
    return assemble(models, items, config, window=window, seed=seed)


def assemble(models: Models, items: Items, config: RecommendConfig, *, window: int, seed: int) -> Ensemble:
    """Models and items -> rankers of histories; arguments and errors as `load_ensemble` has them."""
    generative = GenerativeRanker(
        models.language_model, items.semantic_ids, beams=config.beams, batch_size=config.batch_size
    )
    preference = PreferenceRanker(
        models.preference,
        latents=items.latents,
        index=items.item_index,
        counts=items.counts,
        agreement=Agreement.of_labels(item_categories(items.catalog)),
        nearest=config.nearest,
        seed=seed,
    )
    collaborative = None
    if models.sasrec is not None and SASREC in config.fusion.sources:
        collaborative = CollaborativeRanker(models.sasrec, lenders=items.lenders, window=window)
    joint = models.joint and models.joint.with_catalog(items.semantic_ids, items.latents, items.catalog.titles())

    def conditions(histories: Histories) -> FloatArray:
        if joint is not None:
            found: FloatArray = joint.query_conditions(histories, window=window).numpy()
        else:
            found = query_conditions(models.language_model, items.semantic_ids, histories, window=window).numpy()
        return found

    own_prompts = joint is not None and joint.continuous is not None
    return Ensemble(
        generative,
        preference,
        models.cross_entropy,
        collaborative,
        conditions=conditions,
        own_prompts=own_prompts,
        window=window,
        depth=config.fusion.depth,
    )
