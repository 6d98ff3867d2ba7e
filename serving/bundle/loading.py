"""A bundle's files -> everything an engine holds. Reads a bundle folder, verified; writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recsys.data.texts import clean
from recsys.embeddings.encoder import load_text_encoder
from recsys.embeddings.neighbours import TEXT_NEIGHBOURS, TextNeighbours
from recsys.errors import ArtifactError
from recsys.ranking.loading import RANKERS_FOLDER, Items, Models, RankingContext
from recsys.ranking.tuning import FUSION_FILE, FusionParams
from recsys.retrieval.index import ItemIndex
from recsys.tables import Catalog, ItemVectors, SemanticIds
from recsys.tokenization.continuous import ContinuousTokenizer
from recsys.tokenization.tokenizer import RqVaeTokenizer
from serving.bundle.bundle import CONTINUOUS, LANGUAGE_MODEL, PREFERENCE, TEXT_ENCODER, Bundle, open_bundle
from serving.engine.catalog_state import CatalogState
from serving.engine.interface import EngineInfo
from serving.engine.new_items import LONGEST_TEXT, NewItemTokenizer


class LoadedBundle(NamedTuple):
    """What `BundleEngine` starts from."""

    state: CatalogState
    new_items: NewItemTokenizer
    info: EngineInfo


def load_bundle(folder: Path) -> LoadedBundle:
    """Everything in a bundle.

    Raises:
        ArtifactError: a file is missing, altered or of another bundle.
        ModelError: the language model cannot be loaded, or cannot be decoded as a tree.
    """
    bundle = open_bundle(folder)
    both = CONTINUOUS in bundle.manifest.settings.routes
    discrete = RqVaeTokenizer.load(bundle.folder / "discrete")
    items = _items(bundle, discrete, both=both)
    settings = bundle.manifest.settings
    folders = {"finetune": LANGUAGE_MODEL, "embed": ".", RANKERS_FOLDER: RANKERS_FOLDER}
    folders |= {"diffuse": PREFERENCE} if both else {}
    paths = {name: bundle.folder / inside for name, inside in folders.items()}
    context = RankingContext(
        paths, items, Models(paths, items), settings.recommend, max_history=settings.max_history, seed=settings.seed
    )
    tuned = bundle.part(FUSION_FILE)
    fusion = None if tuned is None else FusionParams.load(tuned)
    state = CatalogState(context, np.ones(len(items.catalog), np.bool_), fusion, settings.exclude_seen)
    encoder, neighbours = bundle.folder / TEXT_ENCODER, bundle.folder / TEXT_NEIGHBOURS
    new_items = NewItemTokenizer(
        settings.embed.text_dimensions,
        discrete,
        ContinuousTokenizer.load(bundle.folder / "continuous") if both else None,
        load_text_encoder(encoder) if encoder.exists() else None,
        TextNeighbours.load(neighbours) if neighbours.exists() else None,
    )
    return LoadedBundle(state, new_items, _info(bundle, state))


def _items(bundle: Bundle, discrete: RqVaeTokenizer, *, both: bool) -> Items:
    catalog = Catalog.load(bundle.folder / "catalog.parquet")
    shown = [clean(pl.col(column), longest=LONGEST_TEXT) for column in catalog.text_columns]
    catalog = Catalog(catalog.frame.with_columns(shown))
    ids = SemanticIds.load(bundle.folder / "discrete" / "semantic_ids.parquet")
    counts = pl.read_parquet(bundle.folder / "counts.parquet")
    if ids.item_ids != catalog.item_ids or counts["item_id"].to_list() != catalog.item_ids:
        raise ArtifactError(f"bundle {bundle.folder}: its parts are of different catalogues; bundle the run again")
    if both:
        latents = ItemVectors.load(bundle.folder / "continuous" / "latents.parquet").vectors
        index = ItemIndex.load(bundle.folder / "index")
    else:
        latents = discrete.quantized(ids.codes)
        index = ItemIndex.build(latents)
    interactions = counts["interactions"].to_numpy().astype(np.int64)
    weights = counts["weight"].to_numpy() if "weight" in counts.columns else None
    return Items(catalog, interactions, np.arange(len(catalog)), ids, latents, index, weights)


def _info(bundle: Bundle, state: CatalogState) -> EngineInfo:
    context = state.context
    settings = {
        "max_history": str(context.max_history),
        "num_beams": str(context.config.num_beams),
        "exclude_seen": str(state.exclude_seen).lower(),
        "index": repr(state.item_index),
    }
    routes, filters = bundle.manifest.settings.routes, state.filter_index.columns
    return EngineInfo(bundle.id, len(state), routes, filters, bundle.manifest.versions, settings)
