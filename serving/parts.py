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
from recsys.llm.storage import load_language_model
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import Tuned
from recsys.rankers.loading import Items, Models
from recsys.retrieval.index import ItemIndex
from recsys.tables import Catalog, ItemVectors, SemanticIds
from recsys.tokenization.continuous import ContinuousTokenizer
from recsys.tokenization.tokenizer import RqVaeTokenizer
from serving.bundle import CONTINUOUS, LANGUAGE_MODEL, PREFERENCE, TEXT_ENCODER, Bundle, open_bundle
from serving.interface import EngineInfo
from serving.newcomers import LONGEST_TEXT, Newcomers
from serving.shelf import Settings, Shelf


class Parts(NamedTuple):
    """What `BundleEngine` is made of; `tuned` is None without the continuous route."""

    shelf: Shelf
    tuned: Tuned | None
    newcomers: Newcomers
    info: EngineInfo


def load_parts(folder: Path) -> Parts:
    """Everything in a bundle.

    Raises:
        ArtifactError: a file is missing, altered or of another bundle.
        ModelError: the language model cannot be loaded.
    """
    bundle = open_bundle(folder)
    both = CONTINUOUS in bundle.settings["routes"]
    discrete = RqVaeTokenizer.load(bundle.folder / "discrete")
    items = _items(bundle, discrete, both=both)
    language_folder = bundle.folder / LANGUAGE_MODEL
    models = Models.load(language_folder, bundle.folder / PREFERENCE, bundle.folder, items) if both else None
    language_model = models.language_model if models else load_language_model(language_folder)
    shelf = Shelf(items, np.ones(len(items.catalog), np.bool_), language_model, models, _settings(bundle))
    encoder, neighbours = bundle.folder / TEXT_ENCODER, bundle.folder / TEXT_NEIGHBOURS
    newcomers = Newcomers(
        int(bundle.settings["embed"]["text_dimensions"]),
        discrete,
        ContinuousTokenizer.load(bundle.folder / "continuous") if both else None,
        load_text_encoder(encoder) if encoder.exists() else None,
        TextNeighbours.load(neighbours) if neighbours.exists() else None,
    )
    tuned = Tuned.load(bundle.folder / "fusion.json") if both else None
    return Parts(shelf, tuned, newcomers, _info(bundle, shelf))


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
    met = counts["interactions"].to_numpy().astype(np.int64)
    return Items(catalog, ids, latents, met, index, np.arange(len(catalog)))


def _settings(bundle: Bundle) -> Settings:
    said = bundle.settings
    recommend = RecommendConfig.model_validate(said["recommend"])
    return Settings(int(said["max_history"]), int(said["seed"]), bool(said["exclude_seen"]), recommend)


def _info(bundle: Bundle, shelf: Shelf) -> EngineInfo:
    recommend = shelf.settings.recommend
    settings = {
        "max_history": str(shelf.settings.window),
        "beams": str(recommend.beams),
        "exclude_seen": str(shelf.settings.exclude_seen).lower(),
        "index": repr(shelf.items.item_index),
    }
    return EngineInfo(
        bundle.id, len(shelf), tuple(bundle.settings["routes"]), shelf.facets.columns, dict(bundle.versions), settings
    )
