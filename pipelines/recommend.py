"""The recommend stage: every ranker ranks the catalogue for every test user, some users at a time, under both policies.

Reads 01_dataset, 02_embeddings and what the run's routes wrote (03, 05, 06, 07); writes `rankings.parquet`,
`served.json` (the policy that is served), `timings.json` (seconds of each ranker for both policies, added up over the
workers), `fusion.json` and `rankers/` (what rankers fit themselves). Rankers and fusion are tuned here, in one process;
users are ranked in partitions, which an executor may spread. Rankers that no seed changes are neither fitted nor ranked
where another seed's run has done so.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import Stage
from pipelines.config import RunConfig
from pipelines.executors import Executor, LocalExecutor
from pipelines.partitions import Partition, Shared, read_histories, user_partitions
from recsys.artifacts import RunDirectory, StageRun, stage_and_part
from recsys.data.dataset import Dataset, load_dislikes
from recsys.data.histories import queries
from recsys.data.policy import ServedPolicy
from recsys.data.purposes import users_for
from recsys.files import read_json, text_sha256, write_json
from recsys.ranking.config import RecommendConfig
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.fusion import FUSED
from recsys.ranking.loading import RANKERS_FOLDER, RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.recommender import FittedRecommender
from recsys.ranking.registry import build_rankers, fit_rankers, rankers
from recsys.ranking.stopwatch import Stopwatch
from recsys.ranking.tuning import FUSION_FILE, FusionParams, TuningUsers, assemble, tune
from recsys.tables import POLICIES, POLICY_TYPE, RANKING_SCHEMA, TEST, VALIDATION, Policy, Rankings
from recsys.tracking import Tracker

# Ranked as one unit of work. It decides which prompts are padded together, so that another number gives scores that
# differ in their last bits: it is never a matter of how many workers there are.
USERS = 2048
Reader = Callable[[], pa.Table]
SECONDS, TIMINGS, RANKINGS = "seconds.json", "timings.json", "rankings.parquet"

logger = logging.getLogger(__name__)


def run(config: RunConfig, run: StageRun, tracker: Tracker, *, executor: Executor | None = None) -> None:
    executor = executor or LocalExecutor(1)
    dataset = Dataset.load(run.read("prepare"))
    # Whole histories: rankers see their newest items, and none of the others may come back either.
    requests = queries(dataset.interactions, dataset.catalog, split=TEST, max_history=len(dataset.interactions))
    served = ServedPolicy.choose(
        config.recommend.exclude_seen, dataset.interactions, repeat_share=config.recommend.repeat_share
    )
    logger.info("      served policy: %s", served)
    params = _params(config, run)
    _reuse_fitted(run)
    _tune(config, run, params, dataset, served.policy, tracker)
    if executor.distributed:
        _ensemble.cache_clear()  # workers have their own
    folders = executor.map_partitions(
        rank_partition,
        user_partitions(requests.histories, run.work / "partitions", size=USERS),
        shared=Shared(params, _content(params)),
        out=run.work / "ranked",
        tracker=tracker,
    )
    _ensemble.cache_clear()
    seconds = [read_json(folder / SECONDS) for folder in folders]
    timings = _timings(seconds, len(requests)) | _reused_timings(run, params["reused"])
    ranked = {source: timings[source] for source in (*rankers(), FUSED) if source in timings}
    _join(folders, list(ranked), run.out / RANKINGS, stored=_row_groups(run, params["reused"]))
    write_json(run.out / TIMINGS, ranked)
    shutil.copytree(run.work / RANKERS_FOLDER, run.out / RANKERS_FOLDER)
    served.save(run.out)
    run.note(users=len(requests))


def rank_partition(partition: Partition, shared: Shared, out: Path, tracker: Tracker) -> None:
    """Write the rankings of every ranker and the fusion under each policy, and `seconds.json`, of a partition."""
    params, watch = shared.params, Stopwatch()
    context, ensemble = _ensemble(json.dumps(params))
    histories, catalog, k = read_histories(partition), context.items.catalog, context.config.k
    batches = RankingBatch.under_policies(
        histories,
        max_history=context.max_history,
        excluded=context.disliked(histories.user_ids, split=TEST),
        tracker=tracker,
    )
    for policy, batch in batches.items():
        for source, found in ensemble.rank(batch, k, stopwatch=watch).items():
            rankings = Rankings.from_arrays(
                histories.user_ids, found.first(k), catalog=catalog, source=source, policy=policy
            )
            rankings.save(out / _file(policy, source))
    write_json(out / SECONDS, watch.seconds)


def load_recommender(
    config: RunConfig, directory: RunDirectory, context: RankingContext | None = None
) -> FittedRecommender:
    """What answers requests by a finished run, every file that it reads verified.

    Args:
        context: of the same run, where it is loaded already.

    Raises:
        ArtifactError: a stage is missing or damaged.
        DataError: the run has none of the configured sources.
    """
    context = context or load_context(config, directory)
    ranked = directory.verified("recommend")
    fused = build_rankers(context, config.recommend.fusion.sources)
    params = FusionParams.load(ranked / FUSION_FILE) if (ranked / FUSION_FILE).exists() else None
    dislikes = load_dislikes(context.folders["prepare"])
    return FittedRecommender(
        context.items.catalog,
        assemble(fused, config.recommend.fusion, params),
        max_history=context.max_history,
        exclude_seen=ServedPolicy.load(ranked).exclude_seen,
        dislikes=None if dislikes is None else dislikes.by_user(),
    )


def load_context(config: RunConfig, directory: RunDirectory) -> RankingContext:
    """What the rankers of a finished run are built from, every file verified.

    Raises:
        ArtifactError: a stage is missing or damaged.
    """
    folders = {name: directory.verified(name) for name in _stage(config).reads}
    return _context(config, folders | {RANKERS_FOLDER: directory.verified("recommend") / RANKERS_FOLDER})


def answers_fingerprint(config: RunConfig, directory: RunDirectory) -> str:
    """A hash of all that decides the answers of a finished run, wherever it is.

    Raises:
        ArtifactError: a stage is missing.
    """
    names = [*_stage(config).reads, "recommend"]
    inputs = {
        name: directory.existing_record(stage).fingerprint(part)
        for name in names
        for stage, part in [stage_and_part(name)]
    }
    known = [inputs, config.recommend.model_dump(mode="json"), config.prepare.max_history, config.seed]
    return text_sha256(json.dumps(known))


def _stage(config: RunConfig) -> Stage:
    return next(stage for stage in config.stages if stage.name == "recommend")


def _context(config: RunConfig, folders: dict[str, Path]) -> RankingContext:
    return RankingContext.load(folders, config.recommend, max_history=config.prepare.max_history, seed=config.seed)


@lru_cache(maxsize=1)
def _ensemble(params_json: str) -> tuple[RankingContext, Ensemble]:
    """One for a process, which ranks many partitions."""
    params = json.loads(params_json)
    context = _shared_context(params)
    tuned = Path(params["fusion"])
    chosen = FusionParams.load(tuned) if tuned.exists() else None
    return context, assemble(build_rankers(context, _others(params["reused"])), context.config.fusion, chosen)


def _shared_context(params: dict[str, Any]) -> RankingContext:
    folders = {name: Path(folder) for name, folder in params["folders"].items()}
    config = RecommendConfig.model_validate(params["recommend"])
    return RankingContext.load(folders, config, max_history=params["max_history"], seed=params["seed"])


def _params(config: RunConfig, run: StageRun) -> dict[str, Any]:
    """What partitions share: where everything is, what it holds, and how to rank."""
    inputs = {name: stage_and_part(name) for name in run.reads}
    folders = {name: run.read(name) for name in run.reads} | {RANKERS_FOLDER: run.work / RANKERS_FOLDER}
    return {
        "folders": {name: str(folder) for name, folder in folders.items()},
        "inputs": {name: run.record(stage).fingerprint(part) for name, (stage, part) in inputs.items()},
        "recommend": config.recommend.model_dump(mode="json"),
        "max_history": config.prepare.max_history,
        "seed": config.seed,
        "fusion": str(run.work / FUSION_FILE),
        "reused": _reused(config, run),
    }


def _reused(config: RunConfig, run: StageRun) -> list[str]:
    """The sources that another seed's run has and no seed changes, but for those that are fused or read by others."""
    if run.sibling is None:
        return []
    specs, ranked = rankers(), read_json(run.sibling / TIMINGS)
    read = {other for name in ranked if name in specs for other in (*specs[name].needs, *specs[name].reads)}
    kept = read | {*config.recommend.fusion.sources}
    names = [name for name, spec in specs.items() if not spec.seeded and name in ranked and name not in kept]
    for name in names:
        logger.info("      %s: that of %s", name, run.sibling)
    return names


def _others(reused: Sequence[str]) -> list[str]:
    """The sources that are ranked here; those that would read a reused one are not there in either run."""
    specs = rankers().items()
    return [name for name, spec in specs if {name, *spec.needs, *spec.reads}.isdisjoint(reused)]


def _reuse_fitted(run: StageRun) -> None:
    """Take what rankers that no seed changes have fitted themselves from another seed's run."""
    if run.sibling is None:
        return
    for name in (name for name, spec in rankers().items() if not spec.seeded):
        fitted, own = run.sibling / RANKERS_FOLDER / name, run.work / RANKERS_FOLDER / name
        if fitted.exists() and not own.exists():
            logger.info("      %s is fitted: that of %s", name, fitted)
            shutil.copytree(fitted, own)


def _content(params: dict[str, Any]) -> str:
    """A hash of all that decides the rankings, wherever it is."""
    fusion = Path(params["fusion"])
    chosen = fusion.read_text(encoding="utf-8") if fusion.exists() else ""
    known = {name: value for name, value in params.items() if name not in ("folders", "fusion")}
    return text_sha256(json.dumps([known, chosen]))


def _tune(
    config: RunConfig, run: StageRun, params: dict[str, Any], dataset: Dataset, served: Policy, tracker: Tracker
) -> None:
    """Have rankers fit what they fit themselves, and write `fusion.json`, unless a killed run already did."""
    context = _shared_context(params)
    fit_rankers(context, run.work / RANKERS_FOLDER)
    path = run.work / FUSION_FILE
    asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=len(dataset.interactions))
    limit, max_history = config.recommend.tuning_users, config.prepare.max_history
    scoring = users_for("scoring", asked, seed=config.seed, limit=limit)
    fusing = users_for("fusion", asked, seed=config.seed, limit=limit)
    run.note(validation_users={"scoring": len(scoring), "fusion": len(fusing)})
    if not len(fusing):
        logger.warning("no validation users: rankers keep their defaults, and all sources weigh the same")
        return
    if not path.exists():
        first, second = (
            TuningUsers.of(
                chosen,
                max_history=max_history,
                excluded=context.disliked(chosen.user_ids, split=VALIDATION),
                tracker=tracker,
            )
            for chosen in (scoring, fusing)
        )
        tune(build_rankers(context), first, second, config.recommend.fusion, served=served).save(path)
    fusion = FusionParams.load(path)
    fusion.save(run.out / FUSION_FILE)
    run.note(**{f"validation_{name.replace('-', '_')}": ndcg for name, ndcg in fusion.validation[served].items()})


def _join(
    folders: Sequence[Path], sources: Sequence[str], path: Path, *, stored: Mapping[tuple[Policy, str], list[Reader]]
) -> None:
    """Write the rankings of all users, source by source, without having them in memory together."""
    schema = pl.DataFrame(schema={**RANKING_SCHEMA, "policy": POLICY_TYPE}).to_arrow().schema
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for policy, source in product(POLICIES, sources):
            own = [partial(pq.read_table, folder / _file(policy, source)) for folder in folders]
            for read in stored.get((policy, source), own):
                writer.write_table(read().cast(schema))


def _row_groups(run: StageRun, reused: Sequence[str]) -> dict[tuple[Policy, str], list[Reader]]:
    """Policy and reused source -> how to read its rankings; a row group is of one policy and source."""
    found: dict[tuple[Policy, str], list[Reader]] = {(policy, name): [] for policy, name in product(POLICIES, reused)}
    if run.sibling is None:
        return found
    file = pq.ParquetFile(run.sibling / RANKINGS)
    for number in range(file.num_row_groups):
        for row in file.read_row_group(number, columns=["policy", "source"]).slice(0, 1).to_pylist():
            if row["source"] in reused:
                found[row["policy"], row["source"]].append(partial(file.read_row_group, number))
    return found


def _reused_timings(run: StageRun, reused: Sequence[str]) -> dict[str, dict[str, float]]:
    known = {} if run.sibling is None else read_json(run.sibling / TIMINGS)
    return {source: known[source] for source in reused}


def _timings(seconds: Sequence[dict[str, float]], users: int) -> dict[str, dict[str, float]]:
    totals = {source: sum(part[source] for part in seconds) for source in (seconds[0] if seconds else ())}
    return {name: {"seconds": total, "ms_per_user": 1000 * total / users} for name, total in totals.items()}


def _file(policy: Policy, source: str) -> str:
    return f"{policy}.{source}.parquet"
