"""One report of the runs of several seeds.

Reads 01_dataset and 08_recommendations of every `RUN/seeds/SEED`; writes `RUN/10_combined_report`: `metrics.json` and
`report.html`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pipelines import COMBINE, FOLDERS
from pipelines.config import RunConfig, dump_yaml
from pipelines.runner import DATA, StageStatus, difference, stage_key
from pipelines.seeds import SEEDS, run_name, seed_run
from recsys.artifacts import RunDirectory, StageKey, package_versions
from recsys.data.dataset import Dataset
from recsys.data.policy import ServedPolicy
from recsys.files import write_json, write_text
from recsys.tables import SEEN_KEPT, Rankings
from recsys.tracking import Tracker

SEED = "seed "  # before the number, in the key of the report

logger = logging.getLogger(__name__)


def combined_status(config: RunConfig, directory: RunDirectory) -> StageStatus:
    """The state of the report, which is of the seeds that it was made of."""
    record = directory.record(COMBINE.name)
    if record is None:
        return StageStatus(COMBINE, "missing", "not run yet", None)
    damage = directory.damage(COMBINE.name)
    if damage:
        return StageStatus(COMBINE, "damaged", damage, record.seconds)
    seeds = [int(name.removeprefix(SEED)) for name in record.key.inputs if name.startswith(SEED)]
    now = _key(config, directory, {seed: seed_run(directory, seed) for seed in seeds})
    reason = difference(record.key, now)
    return StageStatus(COMBINE, "stale" if reason else "current", reason, record.seconds)


def is_combined(config: RunConfig, directory: RunDirectory, runs: Mapping[int, RunDirectory]) -> bool:
    """Whether the report is there, and is of what these runs hold now."""
    record = directory.record(COMBINE.name)
    if record is None or directory.damage(COMBINE.name) is not None:
        return False
    return not difference(record.key, _key(config, directory, runs))


def combine(config: RunConfig, directory: RunDirectory, runs: Mapping[int, RunDirectory], tracker: Tracker) -> None:
    """Evaluate the rankings of all seeds together, and write the report.

    Raises:
        RecsysError: a run's rankings are missing, damaged, or of other systems than the first one's.
    """
    from recsys.evaluation.published import compared, published_on
    from recsys.evaluation.seeds import evaluate_seeds  # not at the top: plots take a second to import
    from recsys.evaluation.seeds_report import SeedReport, render_seed_report

    logger.info("%s: %s", COMBINE.name, COMBINE.help)
    with directory.stage(COMBINE.name, _key(config, directory, runs), ()) as run:
        dataset = Dataset.load(directory.verified(DATA))
        rankings = ((seed, _rankings(own)) for seed, own in runs.items())
        evaluation = evaluate_seeds(rankings, dataset, config.evaluate, seed=config.seed)
        published = published_on(dataset)
        systems = {name: system.metrics for name, system in evaluation.policies[SEEN_KEPT].systems.items()}
        served = ServedPolicy.load(next(iter(runs.values())).verified("recommend"))
        report = SeedReport(
            title=f"Recommendations of {run_name(directory)} under {len(runs)} seeds",
            evaluation=evaluation,
            served=served,
            published=compared(published, systems) if published else None,
            links={seed: f"../{SEEDS}/{seed}/{FOLDERS['evaluate']}/report.html" for seed in runs},
            configuration=dump_yaml(config),
            versions=package_versions(),
        )
        known = {"served": served.to_json(), "published": published and published.model_dump()}
        write_json(run.out / "metrics.json", {**evaluation.to_json(), **known})
        write_text(run.out / "report.html", render_seed_report(report))
        for policy, measured in evaluation.policies.items():
            for name, system in measured.systems.items():
                for metric, found in system.metrics.items():
                    values = {"": found.value, "/deviation": found.deviation}
                    tracker.log({f"{policy}/{name}/{metric}{part}": value for part, value in values.items()}, step=0)
        run.note(seeds=len(runs), users=evaluation.users)
    logger.info("      done in %.1f s", directory.existing_record(COMBINE.name).seconds)


def _rankings(run: RunDirectory) -> Rankings:
    return Rankings.load(run.verified("recommend") / "rankings.parquet")


def _key(config: RunConfig, directory: RunDirectory, runs: Mapping[int, RunDirectory]) -> StageKey:
    """What decides the report: the settings of the evaluation, and the rankings of every seed."""
    key = stage_key(COMBINE, config, directory)
    records = {f"{SEED}{seed}": run.record("recommend") for seed, run in runs.items()}
    rankings = {name: "missing" if record is None else record.fingerprint() for name, record in records.items()}
    data = directory.existing_record(DATA).fingerprint()
    return StageKey(settings=key.settings, code=key.code, inputs={DATA: data, **rankings})
