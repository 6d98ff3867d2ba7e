"""A circle of twelve items with everything a bundle has, trained for real and small: what engine tests are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.histories import interaction_counts, queries, training_histories
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.heads import fit_head
from recsys.diffusion.joint import JointFolders, fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.diffusion.training import fit_preference
from recsys.embeddings.encoder import TfidfEncoder
from recsys.embeddings.neighbours import TextNeighbours
from recsys.embeddings.text import item_texts
from recsys.fusion import FusionConfig
from recsys.llm.conditions import training_conditions
from recsys.llm.continuous import ContinuousTexts
from recsys.llm.storage import load_language_model
from recsys.rankers.collaborative import SASREC_FOLDER
from recsys.rankers.config import RecommendConfig
from recsys.rankers.loading import Items, Models, assemble
from recsys.recommender import Recommender
from recsys.retrieval.index import ItemIndex
from recsys.tables import VALIDATION, ItemVectors
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.continuous import fit_sigma_vae
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.inputs import combine
from recsys.tokenization.tokenizer import fit_rqvae
from recsys.tracking import NullTracker
from recsys.training.plan import Run
from serving.bundle.loading import LoadedBundle
from serving.engine.catalog_state import CatalogState, Settings
from serving.engine.interface import EngineInfo
from serving.engine.new_items import NewItemTokenizer
from tests.rankers.fakes import CONFIG, cycle, sasrec

TOKENIZE = TokenizeConfig(levels=2, codes=6, latent_dim=8, epochs=5, batch=12, collaborative_weight=1)
CONTINUOUS = ContinuousConfig(tokens=2, token_dim=8, epochs=10, batch=12)
# fp32: bf16 draws other samples of a request in another batch, and some CPUs would take bf16.
DIFFUSE = DiffuseConfig(
    hidden_size=32,
    num_layers=1,
    epochs=30,
    batch_size=64,
    learning_rate=5e-3,
    ema_decay=0.9,
    num_samples=8,
    precision="fp32",
)
SETTINGS = Settings(20, 0, exclude_seen=True, recommend=RecommendConfig(beams=12, nearest=4))


def train(root: Path) -> LoadedBundle:
    """Both routes and SASRec, fused."""
    dataset = cycle()
    texts = item_texts(dataset.catalog)
    encoder, vectors = TfidfEncoder.fit(texts, dimensions=16, seed=0)
    text = ItemVectors(dataset.catalog.item_ids, vectors)
    behaviour = ItemVectors(dataset.catalog.item_ids, sasrec(dataset).item_vectors())
    inputs = combine(text, behaviour, TOKENIZE)
    discrete = fit_rqvae(inputs.vectors, TOKENIZE, seed=0, scale=inputs.scale)
    ids = discrete.assign(inputs.vectors, dataset.catalog.item_ids)
    continuous = fit_sigma_vae(text, behaviour, CONTINUOUS, seed=0)
    latents = continuous.latents(text, behaviour).vectors
    Recommender.fit(dataset, ids, discrete.codebooks, folder=root / "model", config=CONFIG)
    training = training_histories(dataset.interactions, dataset.catalog)
    conditions = training_conditions(load_language_model(root / "model"), ids, training, window=50)
    rows = conditions.states.numpy(), conditions.targets.numpy(), latents, DIFFUSE
    fit_preference(*rows, seed=0).save(root / "preference")
    fit_head("cross_entropy", *rows, run=Run("cross_entropy", 0)).save(root / "preference")
    counts = interaction_counts(training.items, len(dataset.catalog))
    items = Items(dataset.catalog, ids, latents, counts, ItemIndex.build(latents), np.arange(len(dataset.catalog)))
    sasrec(dataset).save(root / SASREC_FOLDER)
    models = Models.load(root / "model", root / "preference", root, items)
    neighbours = TextNeighbours.of(text, behaviour, counts > 0)
    return _parts(dataset, items, models, NewItemTokenizer(vectors.shape[1], discrete, continuous, encoder, neighbours))


def _parts(dataset: Dataset, items: Items, models: Models, new_items: NewItemTokenizer) -> LoadedBundle:
    ensemble = assemble(models, items, SETTINGS.recommend, window=SETTINGS.window, seed=SETTINGS.seed)
    asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=20)
    # Log-linear: a place more or less, which the last bits of a batch can decide, does not jump in the fused score.
    fusion = FusionConfig(method="log-linear")
    tuned = ensemble.tune(asked, fusion, exclude_seen=True, tracker=NullTracker())
    state = CatalogState(items, np.ones(len(items.catalog), np.bool_), models.language_model, models, SETTINGS)
    info = EngineInfo("trained", len(items.catalog), ("discrete", "continuous"), ("category",), {}, {})
    return LoadedBundle(state, tuned, new_items, info)


def jointly_trained(parts: LoadedBundle, root: Path, out: Path, *, titles: bool) -> LoadedBundle:
    """The same items with an adapter and a diffusion head that were trained together on prompts of latents.

    Args:
        root: where `train` put its models.
    """
    dataset = cycle()
    items = parts.state.items._replace(item_index=ItemIndex.build(parts.state.items.latents))
    training = training_histories(dataset.interactions, dataset.catalog)
    texts = ContinuousTexts(dataset.catalog.titles() if titles else None)
    data = JointData(items.semantic_ids, training, 50, items.latents, CONTINUOUS.tokens, texts)
    changed = {"epochs": 1, "joint": True, "condition": "continuous", "titles": titles}
    config = DIFFUSE.model_copy(update=changed)
    joint = fit_joint(data, config, folders=JointFolders(root / "model", out), seed=0)
    conditions = joint.training_conditions(training, window=50)
    rows = conditions.states.numpy(), conditions.targets.numpy(), items.latents, config
    fit_head("cross_entropy", *rows, run=Run("cross_entropy", 0)).save(out)
    return _parts(dataset, items, Models.load(root / "model", out, root, items), parts.new_items)
