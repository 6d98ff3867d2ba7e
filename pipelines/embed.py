"""The embed stage: every item gets a text vector and, unless turned off, a collaborative vector (SASRec).

Reads 01_dataset; writes `text.parquet` and `text_encoder/` (for the texts of later items; not with user-provided
vectors), and `collaborative.parquet`, `text_neighbours.safetensors` (which gives cold-start items their proxies) and,
as a by-product, the baseline in `sasrec/`.
"""

from __future__ import annotations

import logging

import numpy as np

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import interaction_counts, queries, training_histories
from recsys.data.policy import ServedPolicy
from recsys.data.purposes import users_for
from recsys.embeddings.neighbours import TEXT_NEIGHBOURS, TextNeighbours
from recsys.embeddings.text import fit_texts
from recsys.files import link, link_tree
from recsys.ranking.loading import SASREC_FOLDER
from recsys.tables import VALIDATION, BoolArray, Catalog, Histories, ItemVectors
from recsys.tracking import Tracker
from recsys.training.plan import plateau_notes

logger = logging.getLogger(__name__)

TEXT, TEXT_ENCODER = "text.parquet", "text_encoder"
TEXT_SEED = 0  # text vectors describe the items, as data do: they are the same under every seed


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    catalog = dataset.catalog
    text = _texts(config, run, catalog)
    run.note(items=len(text), text_dimensions=text.vectors.shape[1])
    if not config.embed.collaborative:
        return
    training = training_histories(dataset.interactions, catalog)
    users = queries(dataset.interactions, catalog, split=VALIDATION, max_history=config.prepare.max_history)
    users = users_for("epochs", users, seed=config.seed)
    sasrec = fit_sasrec(
        training,
        len(catalog),
        config.embed.sasrec,
        seed=config.seed,
        queries=users,
        exclude_seen=ServedPolicy.choose(
            config.recommend.exclude_seen, dataset.interactions, repeat_share=config.recommend.repeat_share
        ).exclude_seen,
        work=run.work / "sasrec",
        tracker=tracker,
    )
    known = _known(training, len(catalog))
    neighbours = TextNeighbours.of(text, ItemVectors(catalog.item_ids, sasrec.vectors), known)
    neighbours.save(run.out / TEXT_NEIGHBOURS)
    proxies = np.arange(len(catalog))
    proxies[~known] = neighbours.proxies(text.vectors[~known]).items
    run.note(validation_users={"epochs": len(users)}, **plateau_notes("sasrec", sasrec.progress))
    sasrec = sasrec.with_proxies(proxies)
    sasrec.save(run.out / SASREC_FOLDER)
    collaborative = ItemVectors(catalog.item_ids, sasrec.vectors)
    collaborative.save(run.out / "collaborative.parquet")
    run.note(collaborative_dimensions=collaborative.vectors.shape[1], num_cold_items=int((~known).sum()))


def _texts(config: RunConfig, run: StageRun, catalog: Catalog) -> ItemVectors:
    """Write the text vectors and their encoder, unless another seed's run has them."""
    path, folder = run.out / TEXT, run.out / TEXT_ENCODER
    if run.sibling is not None:
        logger.info("      text vectors: those of %s", run.sibling)
        link(run.sibling / TEXT, path)
        link_tree(run.sibling / TEXT_ENCODER, folder)
        return ItemVectors.load(path)
    text, encoder = fit_texts(catalog, config.embed, seed=TEXT_SEED)
    text.save(path)
    if encoder is not None:
        encoder.save(folder)
    return text


def _known(training: Histories, num_items: int) -> BoolArray:
    """[N], the items that SASRec was trained on: those of histories of two or more items."""
    trained = np.repeat(training.lengths > 1, training.lengths)
    return interaction_counts(training.items[trained], num_items) > 0
