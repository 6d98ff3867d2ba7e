"""A finished run -> a bundle: gathers what serving needs through the run directory, every file of it verified.

Reads a run directory; writes a bundle (`serving.bundle.bundle`), with the answers to its golden requests.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines import CONTINUOUS, DISCRETE
from pipelines.config import RunConfig
from pipelines.runner import LOG, status
from recsys.artifacts import RunDirectory, package_versions
from recsys.data.dataset import Dataset
from recsys.data.histories import interaction_counts, training_histories, weight_sums
from recsys.data.policy import ServedPolicy
from recsys.diffusion.joint import is_joint
from recsys.embeddings.neighbours import TEXT_NEIGHBOURS
from recsys.errors import ArtifactError, ConfigError
from recsys.files import write_json
from recsys.llm.storage import load_merged, save_merged
from recsys.ranking.fusion import FUSED
from recsys.ranking.loading import RANKERS_FOLDER, SASREC_FOLDER
from recsys.ranking.registry import with_needed
from recsys.ranking.tuning import FUSION_FILE
from recsys.ranking.validation import SAMPLES_FILE
from recsys.retrieval.index import ItemIndex
from serving.bundle.bundle import (
    CATALOG,
    COUNTS,
    INDEX,
    LANGUAGE_MODEL,
    METRICS,
    PREFERENCE,
    TEXT_ENCODER,
    Bundle,
    Origin,
    write_bundle,
)
from serving.bundle.golden import make_golden
from serving.bundle.manifest import BundleSettings, EmbedMetadata
from serving.engine.engine import BundleEngine

SERVED_METRICS = ("hr@10", "ndcg@10")
_PER_ROUTE = {
    DISCRETE: ("prepare", "embed", "tokenize", "finetune", "recommend"),
    CONTINUOUS: ("diffuse", "index"),
}
_OWN_LANGUAGE_MODEL = ("adapter", "language_model.json", "tokenizer")

logger = logging.getLogger(__name__)


def bundle_run(run: RunDirectory, config: RunConfig, out: Path) -> Bundle:
    """Write the bundle of a run; the same run gives the same bundle.

    Args:
        config: the run's own.

    Raises:
        ConfigError: the run has no language model.
        ArtifactError: a stage is missing, stale or damaged, or `out` is something else than a bundle.
    """
    if config.tokenize.kind == CONTINUOUS:
        raise ConfigError(
            "tokenize.kind=continuous has no language model to serve; "
            "run it with --set tokenize.kind=both (or discrete) and bundle that"
        )
    parts = _Parts(run, config)
    origin = Origin(parts.settings(), parts.parents(), package_versions())
    return write_bundle(out, origin, parts.fill, answer=parts.answer)


class _Parts:
    """The stages of a run, as a bundle needs them."""

    def __init__(self, run: RunDirectory, config: RunConfig) -> None:
        self.run, self.config = run, config
        self.both = config.tokenize.kind == "both"
        self.stages = _PER_ROUTE[DISCRETE] + (_PER_ROUTE[CONTINUOUS] if self.both else ())
        self.evaluated = _require_current(run, config, self.stages)
        self.dataset = Dataset.load(run.verified("prepare"))
        training = training_histories(self.dataset.interactions, self.dataset.catalog)
        self.counts = interaction_counts(training.items, len(self.dataset.catalog))
        self.weights = weight_sums(training, len(self.dataset.catalog))

    def settings(self) -> BundleSettings:
        config, embed = self.config, self.config.embed
        notes = self.run.existing_record("embed").notes
        served = ServedPolicy.load(self.run.verified("recommend"))
        return BundleSettings(
            routes=(DISCRETE, CONTINUOUS) if self.both else (DISCRETE,),
            max_history=config.prepare.max_history,
            exclude_seen=served.exclude_seen,
            training_repeats=served.repeats,
            training_interactions=served.interactions,
            seed=config.seed,
            recommend=config.recommend,
            tokenize=config.tokenize,
            embed=EmbedMetadata(
                encoder="vectors" if embed.vectors is not None else embed.encoder,
                fields=embed.fields,
                text_dimensions=notes["text_dimensions"],
                collaborative_dimensions=notes.get("collaborative_dimensions"),
            ),
        )

    def parents(self) -> dict[str, str]:
        stages = (*self.stages, *(("evaluate",) if self.evaluated else ()))
        return {stage: self.run.existing_record(stage).fingerprint() for stage in stages}

    def fill(self, folder: Path) -> None:
        """Put every file into a folder, but for the golden answers."""
        catalog, run = self.dataset.catalog, self.run
        catalog.frame.select("item_id", *catalog.text_columns).write_parquet(folder / CATALOG)
        counted = {"item_id": catalog.item_ids, "interactions": self.counts}
        counts = pl.DataFrame(counted, schema={"item_id": pl.String, "interactions": pl.Int64})
        if self.weights is not None:
            counts = counts.with_columns(weight=self.weights)
        counts.write_parquet(folder / COUNTS)
        _copy(run.verified("tokenize/discrete"), folder / DISCRETE, without=("token_quality.json",))
        self._language_model(folder)
        if self.both:
            _copy(run.verified("tokenize/continuous"), folder / CONTINUOUS, without=("latent_quality.json",))
            ItemIndex.load(run.verified("index")).save(folder / INDEX, with_queries=False)  # they are of users
        self._rankers(folder)
        self._later_items(folder)
        metrics = self._metrics() if self.evaluated else None
        if metrics is not None:
            write_json(folder / METRICS, metrics)

    def _metrics(self) -> dict[str, Any] | None:
        """What was measured of the ranking and policy that are served; None where not at 10 ranks."""
        measured = json.loads((self.run.verified("evaluate") / "metrics.json").read_text(encoding="utf-8"))
        policy = measured["served"]["policy"]
        systems = measured["policies"][policy]["systems"]
        served = next((name for name in (FUSED, *self.config.recommend.fusion.sources) if name in systems), None)
        figures = {} if served is None else systems[served]["metrics"]
        if not all(name in figures for name in SERVED_METRICS):
            return None
        return {
            "system": served,
            "policy": policy,
            "users": measured["users"],
            "confidence": measured["confidence"],
            "metrics": {name: figures[name] for name in SERVED_METRICS},
        }

    def answer(self, folder: Path) -> None:
        """Add the golden answers."""
        item_ids = self.dataset.catalog.item_ids
        popular = np.argsort(-(self.counts if self.weights is None else self.weights), kind="stable")
        make_golden(BundleEngine.load(folder), [item_ids[item] for item in popular]).save(folder)

    def _language_model(self, folder: Path) -> None:
        """The model that is served, merged: nothing is fetched, and no adapter put on, when it is loaded."""
        finetuned = self.run.verified("finetune")
        preference = self.run.verified("diffuse") if self.both else None
        joint = preference is not None and is_joint(preference)
        merged = load_merged(preference, backbone=finetuned) if preference and joint else load_merged(finetuned)
        save_merged(folder / LANGUAGE_MODEL, merged)
        if preference is None:
            return
        own = _OWN_LANGUAGE_MODEL if joint else ()
        _copy(preference, folder / PREFERENCE, without=(LOG, SAMPLES_FILE, *own))
        if joint:
            _copy(folder / LANGUAGE_MODEL, folder / PREFERENCE, without=("backbone",))

    def _rankers(self, folder: Path) -> None:
        """SASRec, what rankers fit themselves, and what validation chose."""
        sasrec, ranked = self.run.verified("embed") / SASREC_FOLDER, self.run.verified("recommend")
        if sasrec.exists():
            _copy(sasrec, folder / SASREC_FOLDER)
        for source in with_needed(self.config.recommend.fusion.sources):
            if (ranked / RANKERS_FOLDER / source).exists():
                _copy(ranked / RANKERS_FOLDER / source, folder / RANKERS_FOLDER / source)
        if (ranked / FUSION_FILE).exists():
            shutil.copyfile(ranked / FUSION_FILE, folder / FUSION_FILE)

    def _later_items(self, folder: Path) -> None:
        """What gives tokens to items that are added to a bundle."""
        embeddings = self.run.verified("embed")
        if (embeddings / TEXT_ENCODER).exists():
            _copy(embeddings / TEXT_ENCODER, folder / TEXT_ENCODER)
        if (embeddings / TEXT_NEIGHBOURS).exists():
            shutil.copyfile(embeddings / TEXT_NEIGHBOURS, folder / TEXT_NEIGHBOURS)


def _require_current(run: RunDirectory, config: RunConfig, stages: tuple[str, ...]) -> bool:
    """Refuse a run whose stages are not all current; whether it was evaluated as it is."""
    states = {entry.stage.name: entry for entry in status(config, run, config.stages)}
    for name in stages:
        if states[name].state != "current":
            raise ArtifactError(
                f"{run.folder(name)} is {states[name].state} ({states[name].reason}); only a finished run is bundled: "
                f"`recsys run --config {run.path / 'config.yaml'} --out {run.path}`"
            )
    evaluated = states["evaluate"].state == "current"
    if not evaluated:
        logger.warning(
            "the run was not evaluated as it is; the bundle has no metrics, and publishing cannot compare it"
        )
    return evaluated


def _copy(source: Path, target: Path, *, without: tuple[str, ...] = ()) -> None:
    """Copy a folder's contents but for some names, and the stage's own record."""
    ignored = shutil.ignore_patterns(*without, "stage.json")
    shutil.copytree(source, target, ignore=ignored, copy_function=shutil.copyfile, dirs_exist_ok=True)
