"""The evaluate stage: compute the metrics of all rankings, and write the report.

Reads 01_dataset, 03_tokens, 08_recommendations and the training logs of every stage; writes `metrics.json` and
`report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import RunConfig, dump_yaml
from pipelines.seeds import run_name
from recsys.artifacts import StageRun, package_versions
from recsys.data.dataset import Dataset
from recsys.data.histories import queries
from recsys.data.policy import ServedPolicy
from recsys.evaluation.evaluation import Evaluation, evaluate
from recsys.evaluation.examples import example_users
from recsys.evaluation.logs import training_curves
from recsys.evaluation.published import compared, published_on
from recsys.evaluation.report import Report, render_report
from recsys.files import read_json, write_json, write_text
from recsys.ranking.tuning import FUSION_FILE
from recsys.tables import SEEN_KEPT, TEST, Rankings, SemanticIds
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    folders = {stage: run.read(stage) for stage in run.reads}
    dataset = Dataset.load(folders["prepare"])
    rankings = Rankings.load(folders["recommend"] / "rankings.parquet")
    served = ServedPolicy.load(folders["recommend"])
    evaluation = evaluate(rankings, dataset, config.evaluate, seed=config.seed)
    examples = example_users(
        rankings.under(served.policy),
        queries=queries(dataset.interactions, dataset.catalog, split=TEST, max_history=len(dataset.interactions)),
        catalog=dataset.catalog,
        cutoff=config.evaluate.slice_cutoff,
        count=config.evaluate.num_examples,
        generator=np.random.default_rng(config.seed),
    )
    published = published_on(dataset)
    report = replace(_report(config, run, folders, evaluation), examples=examples, served=served)
    if published:
        systems = evaluation.policies[SEEN_KEPT].systems
        metrics = {name: system.metrics for name, system in systems.items()}
        seen = {name: system.beyond.seen for name, system in systems.items()}
        report = replace(report, published=compared(published, metrics, seen))
    models = {"tokens": report.token_quality or {}, "latents": report.latent_quality, "fusion": report.fusion}
    known = {"served": served.to_json(), "published": published and published.model_dump()}
    write_json(run.out / "metrics.json", {**evaluation.to_json(), **known, **models})
    write_text(run.out / "report.html", render_report(report))
    out_of_catalogue = 0
    for policy, measured in evaluation.policies.items():
        for name, system in measured.systems.items():
            values = {f"{policy}/{name}/{metric}": estimate.value for metric, estimate in system.metrics.items()}
            tracker.log(values, step=0)
            out_of_catalogue += system.out_of_catalogue_items
    run.note(users=evaluation.users, out_of_catalogue_items=out_of_catalogue)


def _report(config: RunConfig, run: StageRun, folders: Mapping[str, Path], evaluation: Evaluation) -> Report:
    """The evaluation, with what the other stages wrote."""
    ids = folders["tokenize"] / "discrete" / "semantic_ids.parquet"
    semantic_ids = SemanticIds.load(ids) if ids.exists() else None
    quality = _json(ids.with_name("token_quality.json"))
    if semantic_ids is not None:
        quality = {"unique_ids": len(np.unique(semantic_ids.codes, axis=0)) / len(semantic_ids), **quality}
    return Report(
        title=f"Recommendations of {run_name(run.directory)}",
        evaluation=evaluation,
        curves=training_curves(folder / "training_log.jsonl" for folder in folders.values()),
        token_quality=quality or None,
        semantic_ids=semantic_ids,
        latent_quality=_json(folders["tokenize"] / "continuous" / "latent_quality.json") or None,
        fusion=_json(folders["recommend"] / FUSION_FILE) or None,
        data_card=_json(folders["prepare"] / "data_card.json"),
        configuration=dump_yaml(config),
        versions=package_versions(),
        seconds={stage: run.record(stage).seconds for stage in run.reads},
        timings=_json(folders["recommend"] / "timings.json"),
    )


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
