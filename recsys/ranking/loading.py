"""The folders of a run or a bundle -> what rankers are built from: the items, the trained models, the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from recsys.baselines.sasrec import Sasrec
from recsys.data.categories import CategoryCodes, item_categories
from recsys.data.dataset import Dataset, load_dislikes
from recsys.data.histories import interaction_counts, training_histories, weight_sums
from recsys.diffusion.heads import Kind, QueryHead
from recsys.diffusion.joint import JointPreference, is_joint
from recsys.diffusion.preference import PreferenceModel
from recsys.llm.storage import LanguageModel, load_language_model
from recsys.ranking.conditions import Conditions, continuous_states, prompt_states
from recsys.ranking.config import RecommendConfig
from recsys.retrieval.index import ItemIndex
from recsys.tables import Catalog, FloatArray, Histories, IntArray, ItemVectors, SemanticIds

SASREC_FOLDER = "sasrec"
RANKERS_FOLDER = "rankers"  # a folder a ranker, for what it fits itself


def load_sasrec(embeddings: Path) -> Sasrec | None:
    """The SASRec of a folder 02, or of a bundle; None where items have no collaborative vectors.

    Raises:
        ArtifactError: it cannot be read.
    """
    folder = embeddings / SASREC_FOLDER
    return Sasrec.load(folder) if folder.exists() else None


@dataclass(frozen=True)
class Items:
    """The catalogue, and what is known of each item, in its order. What a run or a bundle does not have is None."""

    catalog: Catalog
    counts: IntArray  # [N] training interactions
    proxies: IntArray  # [N] the item whose behaviour counts as an item's: itself, but for later ones; -1 = mean of all
    semantic_ids: SemanticIds | None
    latents: FloatArray | None  # [N, D]
    item_index: ItemIndex | None
    weights: FloatArray | None = None  # [N] sum of the weights of its training interactions, where they have any

    @property
    def popularity(self) -> FloatArray | IntArray:
        """[N], what the most popular items have most of: interactions, or their weights."""
        return self.counts if self.weights is None else self.weights

    @cached_property
    def categories(self) -> CategoryCodes | None:
        """None where they do not divide the catalogue."""
        return CategoryCodes.of_labels(item_categories(self.catalog))

    @classmethod
    def load(cls, folders: Mapping[str, Path]) -> Items:
        """Of a run.

        Args:
            folders: stage or stage/part -> folder.

        Raises:
            ArtifactError: a part is damaged.
        """
        dataset = Dataset.load(folders["prepare"])
        training = training_histories(dataset.interactions, dataset.catalog)
        discrete, continuous = folders.get("tokenize/discrete"), folders.get("tokenize/continuous")
        return cls(
            dataset.catalog,
            interaction_counts(training.items, len(dataset.catalog)),
            np.arange(len(dataset.catalog)),
            SemanticIds.load(discrete / "semantic_ids.parquet") if discrete else None,
            ItemVectors.load(continuous / "latents.parquet").vectors if continuous else None,
            ItemIndex.load(folders["index"]) if "index" in folders else None,
            weight_sums(training, len(dataset.catalog)),
        )


class Models:
    """The trained models of a run or a bundle, each loaded when it is first used; None where there is none.

    Raises (every property):
        ArtifactError: a part is missing or damaged.
        ModelError: the pretrained backbone cannot be loaded any more.
    """

    def __init__(self, folders: Mapping[str, Path], items: Items) -> None:
        """
        Args:
            folders: stage -> folder, of a run or a bundle.
            items: those that the models were trained on.
        """
        self._folders, self._items = folders, items

    @cached_property
    def joint(self) -> JointPreference | None:
        """Set where the adapter was trained together with the diffusion module."""
        folder, items = self._folders.get("diffuse"), self._items
        if folder is None or not is_joint(folder):
            return None
        assert items.semantic_ids is not None
        assert items.latents is not None
        titles = items.catalog.titles() if PreferenceModel.load(folder).config.titles else None
        return JointPreference.load(
            folder, items.semantic_ids, items.latents, finetuned=self._folders["finetune"], titles=titles
        )

    @cached_property
    def language_model(self) -> LanguageModel | None:
        if self.joint is not None:
            return self.joint.language_model
        folder = self._folders.get("finetune")
        return None if folder is None else load_language_model(folder)

    @cached_property
    def preference(self) -> PreferenceModel | None:
        if self.joint is not None:
            return self.joint.preference
        folder = self._folders.get("diffuse")
        return None if folder is None else PreferenceModel.load(folder)

    def head(self, kind: Kind) -> QueryHead | None:
        """A plain head on the language model's states."""
        folder = self._folders.get("diffuse")
        return None if folder is None else QueryHead.load(folder, kind)

    @cached_property
    def sasrec(self) -> Sasrec | None:
        folder = self._folders.get("embed")
        return None if folder is None else load_sasrec(folder)


@dataclass(frozen=True)
class RankingContext:
    """Everything that a ranker may be built from.

    `folders` maps stages, and parts of them, to folders; `max_history` is the number of items of a history that rankers
    see, `seed` that of the samples' noise.
    """

    folders: Mapping[str, Path]
    items: Items
    models: Models
    config: RecommendConfig
    max_history: int
    seed: int

    @classmethod
    def load(
        cls, folders: Mapping[str, Path], config: RecommendConfig, *, max_history: int, seed: int
    ) -> RankingContext:
        """Of a finished run."""
        items = Items.load(folders)
        return cls(folders, items, Models(folders, items), config, max_history, seed)

    def over(self, items: Items) -> RankingContext:
        """The same models over other items; those that they were trained on come first."""
        return replace(self, items=items)

    def fitted(self, name: str) -> Path | None:
        """The folder of what a ranker fitted itself (`RankerSpec.fit`), None where there is none."""
        root = self.folders.get(RANKERS_FOLDER)
        return None if root is None or not (root / name).exists() else root / name

    def training_histories(self) -> Histories:
        """Those of the run; a bundle has none."""
        dataset = Dataset.load(self.folders["prepare"])
        return training_histories(dataset.interactions, dataset.catalog)

    def disliked(self, user_ids: Sequence[str], *, split: int) -> list[IntArray] | None:
        """Item indices that each user of a run disliked before the target in `split`; None where there are none."""
        dislikes = load_dislikes(self.folders["prepare"])
        if dislikes is None:
            return None
        interactions = Dataset.load(self.folders["prepare"]).interactions
        return dislikes.before_targets(user_ids, interactions, self.items.catalog, split=split)

    @cached_property
    def conditions(self) -> Conditions | None:
        """What the diffusion module and the plain heads are conditioned on; None without a language model."""
        items, model, joint = self.items, self.models.language_model, self.models.joint
        if model is None or items.semantic_ids is None:
            return None
        if joint is None or joint.continuous is None or items.latents is None:
            return prompt_states(model, items.semantic_ids)
        return continuous_states(joint.with_catalog(items.semantic_ids, items.latents, items.catalog.titles()))
