"""A small trained engine: twelve items in a cycle, with every part of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.histories import interaction_counts, queries, training_histories
from recsys.diffusion.heads import fit_head
from recsys.diffusion.joint import fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.diffusion.training import fit_preference
from recsys.embeddings.encoder import TfidfEncoder
from recsys.embeddings.neighbours import TextNeighbours
from recsys.embeddings.text import item_texts
from recsys.llm.conditions import training_conditions
from recsys.llm.continuous import ContinuousTexts
from recsys.llm.storage import load_language_model
from recsys.ranking.config import FusionConfig
from recsys.ranking.loading import SASREC_FOLDER, Items, Models, RankingContext
from recsys.ranking.registry import build_rankers
from recsys.ranking.tuning import TuningUsers, tune
from recsys.retrieval.index import ItemIndex
from recsys.tables import SEEN_LEFT_OUT, VALIDATION, ItemVectors
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.continuous import fit_sigma_vae
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.inputs import combine
from recsys.tokenization.tokenizer import fit_rqvae
from recsys.training.plan import Run
from serving.bundle.loading import LoadedBundle
from serving.engine.catalog_state import CatalogState
from serving.engine.interface import EngineInfo
from serving.engine.new_items import NewItemTokenizer
from tests.ranking.fakes import READING_ITEMS, cycle, finetuned, sasrec
from tests.ranking.trained import DIFFUSE, RECOMMEND

TOKENIZE = TokenizeConfig(num_levels=2, codebook_size=6, latent_dim=8, epochs=5, batch_size=12, collaborative_weight=1)
CONTINUOUS = ContinuousConfig(num_tokens=2, token_dim=8, epochs=10, batch_size=12)


def train(root: Path) -> LoadedBundle:
    """Both routes and SASRec, fused."""
    dataset = cycle()
    texts = item_texts(dataset.catalog)
    encoder, vectors = TfidfEncoder.fit(texts, dimensions=16, seed=0)
    text = ItemVectors(dataset.catalog.item_ids, vectors)
    behaviour = ItemVectors(dataset.catalog.item_ids, sasrec(dataset).vectors)
    inputs = combine(text, behaviour, TOKENIZE)
    discrete = fit_rqvae(inputs.vectors, TOKENIZE, seed=0, scale=inputs.scale)
    ids = discrete.assign(inputs.vectors, dataset.catalog.item_ids)
    continuous = fit_sigma_vae(text, behaviour, CONTINUOUS, seed=0)
    latents = continuous.latents(text, behaviour).vectors
    finetuned(dataset, ids, discrete.codebooks, folder=root / "model", config=READING_ITEMS)
    training = training_histories(dataset.interactions, dataset.catalog)
    conditions = training_conditions(load_language_model(root / "model"), ids, training, window=50)
    rows = conditions.states.numpy(), conditions.targets.numpy(), latents, DIFFUSE
    fit_preference(*rows, seed=0).save(root / "preference")
    fit_head("cross_entropy", *rows, run=Run("cross_entropy", 0)).save(root / "preference")
    counts = interaction_counts(training.items, len(dataset.catalog))
    items = Items(dataset.catalog, counts, np.arange(len(counts)), ids, latents, ItemIndex.build(latents))
    sasrec(dataset).save(root / SASREC_FOLDER)
    folders = {"finetune": root / "model", "diffuse": root / "preference", "embed": root}
    neighbours = TextNeighbours.of(text, behaviour, counts > 0)
    new_items = NewItemTokenizer(vectors.shape[1], discrete, continuous, encoder, neighbours)
    return _parts(dataset, items, folders, new_items)


def over(state: CatalogState, **changes: Any) -> CatalogState:
    """The same models over items of which something is changed."""
    return replace(state, context=state.context.over(replace(state.items, **changes)))


def with_own_index(state: CatalogState) -> CatalogState:
    """With an index of its own, for an engine that is changed."""
    return over(state, item_index=ItemIndex.build(state.latents))


def _parts(dataset: Dataset, items: Items, folders: dict[str, Path], new_items: NewItemTokenizer) -> LoadedBundle:
    context = RankingContext(folders, items, Models(folders, items), RECOMMEND, max_history=20, seed=0)
    asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=20)
    # Log-linear: a rank more or less, which the last bits of a batch can decide, does not jump in the fused score.
    fusion = FusionConfig(method="log-linear")
    everybody = TuningUsers.of(asked, max_history=20)
    params = tune(build_rankers(context, fusion.sources), everybody, everybody, fusion, served=SEEN_LEFT_OUT)
    state = CatalogState(context, np.ones(len(items.catalog), np.bool_), params, exclude_seen=True)
    info = EngineInfo("trained", len(items.catalog), ("discrete", "continuous"), ("category",), {}, {})
    return LoadedBundle(state, new_items, info)


def jointly_trained(parts: LoadedBundle, root: Path, out: Path, *, titles: bool) -> LoadedBundle:
    """The same items with an adapter and a diffusion head that were trained together on prompts of latents.

    Args:
        root: where `train` put its models.
        out: for what is trained here, a language model that reads code tokens among it.
    """
    dataset = cycle()
    items = with_own_index(parts.state).items
    assert items.semantic_ids is not None
    assert items.latents is not None
    training = training_histories(dataset.interactions, dataset.catalog)
    texts = ContinuousTexts(dataset.catalog.titles() if titles else None)
    data = JointData(items.semantic_ids, training, 50, items.latents, CONTINUOUS.num_tokens, texts)
    changed = {"epochs": 1, "joint": True, "condition": "continuous", "titles": titles}
    config = DIFFUSE.model_copy(update=changed)
    reading_tokens = finetuned(dataset, items.semantic_ids, parts.new_items.discrete.codebooks, folder=out / "tokens")
    joint = fit_joint(data, config, finetuned=reading_tokens, out=out, seed=0)
    conditions = joint.training_conditions(training, window=50)
    rows = conditions.states.numpy(), conditions.targets.numpy(), items.latents, config
    fit_head("cross_entropy", *rows, run=Run("cross_entropy", 0)).save(out)
    folders = {"finetune": reading_tokens, "diffuse": out, "embed": root}
    return _parts(dataset, items, folders, parts.new_items)
