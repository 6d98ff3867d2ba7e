"""The recommend stage: every system ranks the catalogue for every test user, some users at a time.

Reads 01_dataset, 02_embeddings and what the run's routes wrote (03, 05, 06, 07); writes `rankings.parquet`,
`timings.json` (seconds of each system, added up over the workers) and, where there are two routes, `fusion.json`.
Fusion is tuned here, in one process; users are ranked in partitions, which an executor may spread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from pipelines.config import RunConfig
from pipelines.executors import Executor, LocalExecutor
from pipelines.partitions import Partition, Shared, read_histories, user_partitions
from recsys.artifacts import StageRun, stage_and_part
from recsys.baselines.base import Baseline, TopItems
from recsys.baselines.itemknn import fit_item_knn
from recsys.baselines.popularity import fit_popularity
from recsys.data.dataset import Dataset
from recsys.data.histories import excludes_seen, queries, sampled_users, training_histories
from recsys.diffusion.heads import QueryHead
from recsys.files import read_json, text_sha256, write_json
from recsys.fusion import CROSS_ENTROPY, DENSE, FUSED, GENERATIVE, SASREC, TUNED
from recsys.llm.storage import load_language_model
from recsys.rankers.collaborative import load_sasrec
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import ONE_SAMPLE, Ensemble, Tuned
from recsys.rankers.generative import GenerativeRanker
from recsys.rankers.loading import Folders, load_ensemble
from recsys.tables import RANKING_SCHEMA, TEST, VALIDATION, Catalog, Histories, Rankings, SemanticIds
from recsys.tracking import Tracker

LADDER = ("popularity", "item-knn", SASREC, "regression", CROSS_ENTROPY, ONE_SAMPLE, DENSE, GENERATIVE, FUSED)
# Ranked as one unit of work. It decides which prompts are padded together, so that another number gives scores that
# differ in their last bits: it is never a matter of how many workers there are.
USERS = 2048
SECONDS = "seconds.json"


def run(config: RunConfig, run: StageRun, tracker: Tracker, *, executor: Executor | None = None) -> None:
    executor = executor or LocalExecutor(1)
    dataset = Dataset.load(run.read("prepare"))
    # Whole histories: systems look at their newest items, and none of them may come back.
    asked = queries(dataset.interactions, dataset.catalog, split=TEST, max_history=len(dataset.interactions))
    exclude_seen = excludes_seen(config.recommend.exclude_seen, dataset.interactions)
    facts = _facts(config, run, exclude_seen)
    if "diffuse" in run.reads:
        _tune(config, run, facts, dataset, tracker)
    if executor.spreads:
        _systems.cache_clear()  # workers have their own
    folders = executor.map_partitions(
        rank_partition,
        user_partitions(asked.histories, run.work / "partitions", size=USERS),
        shared=Shared(facts, _content(facts)),
        out=run.work / "ranked",
        tracker=tracker,
    )
    _systems.cache_clear()
    seconds = [read_json(folder / SECONDS) for folder in folders]
    _join(folders, [name for name in LADDER if seconds and name in seconds[0]], run.out / "rankings.parquet")
    _time(seconds, len(asked), run.out / "timings.json")
    run.note(users=len(asked), exclude_seen=exclude_seen)


def rank_partition(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    """Write `SYSTEM.parquet` for every system, and `seconds.json`, for the users of a partition."""
    systems = _systems(json.dumps(shared.params))
    ranked = _Ranked(systems, read_histories(partition), out, tracker)
    baselines = {name: ranked.system(name, baseline) for name, baseline in systems.baselines.items()}
    if "diffuse" in systems.folders:
        _both_routes(ranked, baselines)
    elif "finetune" in systems.folders:
        ranked.system(GENERATIVE, systems.generative)
    write_json(out / SECONDS, ranked.seconds)


def _both_routes(ranked: _Ranked, baselines: dict[str, TopItems]) -> None:
    """Our own parts, each alone, and what comes of fusing them with each other and with SASRec."""
    systems, histories, tracker = ranked.systems, ranked.histories, ranked.tracker
    ensemble, tuned = systems.ensemble, systems.tuned
    k, exclude_seen = systems.config.k, systems.exclude_seen
    generated = ranked.add(
        GENERATIVE, lambda: ensemble.generate(histories, k=k, exclude_seen=exclude_seen, tracker=tracker)
    )
    asked = ensemble.ask(histories, histories.user_ids, exclude_seen=exclude_seen)
    points = systems.regression.predict(asked.states)
    ranked.add("regression", lambda: ensemble.preference.rank_points(points, asked.excluded, k=k))
    classified = ranked.add(CROSS_ENTROPY, lambda: ensemble.classify(asked, k=k))
    ranked.add(
        ONE_SAMPLE,
        lambda: ensemble.preference.rank(asked, tuned.single, k=k, samples=1, generated=generated, tracker=tracker),
    )
    dense = ranked.add(DENSE, lambda: ensemble.imagine(asked, tuned.scoring, generated, k=k, tracker=tracker))
    parts = {GENERATIVE: generated, DENSE: dense, CROSS_ENTROPY: classified}
    parts |= {name: found for name, found in baselines.items() if name == SASREC}
    ranked.add(FUSED, lambda: ensemble.fuse(tuned, parts, k=k))


class _Systems:
    """Everything that ranks, each loaded when it is first asked for; of the facts that partitions share."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.config = RecommendConfig.model_validate(facts["recommend"])
        self.folders = {name: Path(folder) for name, folder in facts["folders"].items()}
        self.window, self.seed, self.exclude_seen = facts["window"], facts["seed"], facts["exclude_seen"]
        self._tuned = Path(facts["tuned"])

    @cached_property
    def catalog(self) -> Catalog:
        return Dataset.load(self.folders["prepare"]).catalog

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        interactions, num_items = Dataset.load(self.folders["prepare"]).interactions, len(self.catalog)
        training = training_histories(interactions, self.catalog)
        found: dict[str, Baseline] = {
            "popularity": fit_popularity(training, num_items),
            "item-knn": fit_item_knn(training, num_items, neighbours=self.config.neighbours),
        }
        sasrec = load_sasrec(self.folders["embed"])
        return found if sasrec is None else {**found, SASREC: sasrec}

    @cached_property
    def generative(self) -> GenerativeRanker:
        return GenerativeRanker(
            load_language_model(self.folders["finetune"]),
            SemanticIds.load(self.folders["tokenize/discrete"] / "semantic_ids.parquet"),
            beams=self.config.beams,
            batch_size=self.config.batch_size,
        )

    @cached_property
    def ensemble(self) -> Ensemble:
        names = ("prepare", "embed", "tokenize/discrete", "tokenize/continuous", "finetune", "diffuse", "index")
        folders = Folders(*(self.folders[name] for name in names))
        return load_ensemble(folders, self.config, window=self.window, seed=self.seed)

    @cached_property
    def regression(self) -> QueryHead:
        return QueryHead.load(self.folders["diffuse"], "regression")

    @cached_property
    def tuned(self) -> Tuned:
        return Tuned.load(self._tuned)


@lru_cache(maxsize=1)
def _systems(facts: str) -> _Systems:
    """One for a process, which ranks many partitions."""
    return _Systems(json.loads(facts))


class _Ranked:
    """The rankings of some users by all systems, written as they are made, and how long each took."""

    def __init__(self, systems: _Systems, histories: Histories, out: Path, tracker: Tracker) -> None:
        self.systems, self.histories, self.tracker = systems, histories, tracker
        self.seconds: dict[str, float] = {}
        self._out = out

    def system(self, name: str, system: Baseline) -> TopItems:
        """Add what a system ranks, deep enough to be fused where it is."""
        asked, systems = self.histories, self.systems
        k = max(systems.config.k, systems.config.fusion.depth if name == SASREC else 0)
        seen, window, tracker = systems.exclude_seen, systems.window, self.tracker
        return self.add(name, lambda: system.rank(asked, k=k, exclude_seen=seen, window=window, tracker=tracker))

    def add(self, name: str, rank: Callable[[], TopItems]) -> TopItems:
        """The ranking that `rank` makes; its first `k` places are written."""
        started = time.perf_counter()
        found = rank()
        self.seconds[name] = time.perf_counter() - started
        users, catalog, k = self.histories.user_ids, self.systems.catalog, self.systems.config.k
        rankings = Rankings.from_arrays(users, found.items[:, :k], found.scores[:, :k], catalog=catalog, source=name)
        rankings.save(self._out / _file(name))
        return found


def _facts(config: RunConfig, run: StageRun, exclude_seen: bool) -> dict[str, Any]:
    """What workers are told: where everything is, what it holds, and how to rank."""
    inputs = {name: stage_and_part(name) for name in run.reads}
    return {
        "folders": {name: str(run.read(name)) for name in run.reads},
        "inputs": {name: run.record(stage).fingerprint(part) for name, (stage, part) in inputs.items()},
        "recommend": config.recommend.model_dump(mode="json"),
        "window": config.prepare.max_history,
        "seed": config.seed,
        "exclude_seen": exclude_seen,
        "tuned": str(run.work / TUNED),
    }


def _content(facts: dict[str, Any]) -> str:
    """A hash of all that decides the rankings, wherever it is."""
    tuned = Path(facts["tuned"])
    chosen = tuned.read_text(encoding="utf-8") if tuned.exists() else ""
    known = {name: value for name, value in facts.items() if name not in ("folders", "tuned")}
    return text_sha256(json.dumps([known, chosen]))


def _tune(config: RunConfig, run: StageRun, facts: dict[str, Any], dataset: Dataset, tracker: Tracker) -> None:
    """Write `fusion.json`: scoring and fusion, chosen on validation users, or before a kill."""
    path = run.work / TUNED
    if not path.exists():
        asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=len(dataset.interactions))
        chosen = sampled_users(asked, users=config.recommend.tuning_users, seed=config.seed)
        ensemble = _systems(json.dumps(facts)).ensemble
        ensemble.tune(chosen, config.recommend.fusion, exclude_seen=facts["exclude_seen"], tracker=tracker).save(path)
    tuned = Tuned.load(path)
    tuned.save(run.out / TUNED)
    run.note(**{f"validation_{name.replace(' ', '_')}": ndcg for name, ndcg in tuned.validation.items()})


def _join(folders: Sequence[Path], names: Sequence[str], path: Path) -> None:
    """Write the rankings of all users, system by system, without having them in memory together."""
    schema = pl.DataFrame(schema=RANKING_SCHEMA).to_arrow().schema
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for name in names:
            for folder in folders:
                writer.write_table(pq.read_table(folder / _file(name)).cast(schema))


def _time(seconds: Sequence[dict[str, float]], users: int, path: Path) -> None:
    names = [name for name in LADDER if seconds and name in seconds[0]]
    totals = {name: sum(part[name] for part in seconds) for name in names}
    timings = {name: {"seconds": total, "ms_per_user": 1000 * total / users} for name, total in totals.items()}
    write_json(path, timings)


def _file(name: str) -> str:
    return f"{name.replace(' ', '_')}.parquet"
