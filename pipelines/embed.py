"""The embed stage: every item gets a vector from its texts and, unless turned off, one from behaviour (SASRec).

Reads 01_dataset; writes `text.parquet` and `text_encoder/` (for the texts of later items, unless the vectors are one's
own), and `collaborative.parquet`, `text_neighbours.safetensors` (which items lend vectors to those that nobody has met)
and `sasrec/` (the baseline, trained by the way).
"""

from __future__ import annotations

import numpy as np

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import excludes_seen, interaction_counts, queries, training_histories
from recsys.embeddings.neighbours import TEXT_NEIGHBOURS, TextNeighbours
from recsys.embeddings.text import fit_texts
from recsys.ranking.loading import SASREC_FOLDER
from recsys.tables import VALIDATION, BoolArray, Histories, ItemVectors
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    catalog = dataset.catalog
    text, encoder = fit_texts(catalog, config.embed, seed=config.seed)
    text.save(run.out / "text.parquet")
    if encoder is not None:
        encoder.save(run.out / "text_encoder")
    run.note(items=len(text), text_dimensions=text.vectors.shape[1])
    if not config.embed.collaborative:
        return
    training = training_histories(dataset.interactions, catalog)
    sasrec = fit_sasrec(
        training,
        len(catalog),
        config.embed.sasrec,
        seed=config.seed,
        queries=queries(dataset.interactions, catalog, split=VALIDATION, history=config.prepare.history),
        exclude_seen=excludes_seen(config.recommend.exclude_seen, dataset.interactions),
        work=run.work / "sasrec",
        tracker=tracker,
    )
    met = _met(training, len(catalog))
    neighbours = TextNeighbours.of(text, ItemVectors(catalog.item_ids, sasrec.item_vectors()), met)
    neighbours.save(run.out / TEXT_NEIGHBOURS)
    lenders = np.arange(len(catalog))
    lenders[~met] = neighbours.lend(text.vectors[~met]).lenders
    sasrec = sasrec.borrowing(lenders)
    sasrec.save(run.out / SASREC_FOLDER)
    collaborative = ItemVectors(catalog.item_ids, sasrec.item_vectors())
    collaborative.save(run.out / "collaborative.parquet")
    run.note(collaborative_dimensions=collaborative.vectors.shape[1], items_nobody_met=int((~met).sum()))


def _met(training: Histories, num_items: int) -> BoolArray:
    """[N], the items that SASRec has learnt from: those of histories in which something follows something."""
    learnt = np.repeat(training.lengths > 1, training.lengths)
    return interaction_counts(training.items[learnt], num_items) > 0
