"""Runs the stages that are not current, and keeps the metrics they log.

Reads and writes a run directory (recsys.artifacts); writes `training_log.jsonl` into the folder of every stage that
logs metrics.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, cast

from pipelines import Stage
from pipelines.config import RunConfig, flatten
from pipelines.executors import Executor, LocalExecutor
from recsys.artifacts import RunDirectory, StageKey, StageRun, stage_and_part
from recsys.errors import ArtifactError
from recsys.files import fingerprint
from recsys.tracking import Tracker

T = TypeVar("T")
LOG, DATA = "training_log.jsonl", "prepare"
NOT_DISTRIBUTED = {
    "prepare": "cleaning and splitting need all interactions",
    "embed": "its models are fitted to the whole catalogue",
    "tokenize": "codebooks and unique ids need the whole catalogue",
    "instruct": "it only writes the examples",
    "finetune": "one model is trained, by several processes with --processes",
    "diffuse": "one model is trained",
    "index": "one index is trained and tuned",
    "evaluate": "it only counts",
}
"""Why a stage runs on the driver alone."""

logger = logging.getLogger(__name__)


class StageFunction(Protocol):
    def __call__(self, config: RunConfig, run: StageRun, tracker: Tracker) -> None: ...


class DistributedStageFunction(Protocol):
    """A stage that computes partitions with an executor."""

    def __call__(self, config: RunConfig, run: StageRun, tracker: Tracker, *, executor: Executor) -> None: ...


class StageStatus(NamedTuple):
    """`state` is current, stale, damaged or missing; `reason` why it is not current; `seconds` it took, if known."""

    stage: Stage
    state: str
    reason: str
    seconds: float | None


def load_stage(stage: Stage) -> StageFunction:
    """The stage's function, imported on demand."""
    function: StageFunction = import_module(f"pipelines.{stage.module or stage.name}").run
    return function


def stage_key(stage: Stage, config: RunConfig, directory: RunDirectory) -> StageKey:
    """Everything that determines the stage's result: settings, code version and the contents of its inputs."""
    flat = flatten(config.model_dump(mode="json"))
    chosen = {key: flat[key] for key in flat if _within(key, stage.settings) and key not in stage.seeds}
    seeds = [flat[key] for key in stage.seeds if flat[key] is not None]
    chosen |= {"seed": seeds[0]} if seeds else {}
    inputs = {}
    for key in stage.sources:
        path = Path(str(chosen[key])).expanduser()
        if chosen[key] is not None and path.exists():
            inputs[key] = fingerprint(path)
            del chosen[key]
    for name in stage.reads:
        earlier, part = stage_and_part(name)
        record = directory.record(earlier)
        inputs[name] = record.fingerprint(part) if record else "missing"
    return StageKey(settings=chosen, code=stage.version, inputs=inputs)


def status(config: RunConfig, directory: RunDirectory, stages: Sequence[Stage]) -> list[StageStatus]:
    """The state of every stage, in flow order; files are compared by name and size only."""
    found: dict[str, StageStatus] = {}
    for stage in stages:
        record = directory.record(stage.name)
        if record is None:
            found[stage.name] = StageStatus(stage, "missing", "not run yet", None)
            continue
        damage = directory.damage(stage.name)
        if damage:
            found[stage.name] = StageStatus(stage, "damaged", damage, record.seconds)
            continue
        read = [stage_and_part(name)[0] for name in stage.reads]
        outdated = [name for name in read if name in found and found[name].state != "current"]
        reason = f"reads {outdated[0]}, which is {found[outdated[0]].state}" if outdated else ""
        reason = reason or difference(record.key, stage_key(stage, config, directory))
        found[stage.name] = StageStatus(stage, "stale" if reason else "current", reason, record.seconds)
    return list(found.values())


def run_stages(
    config: RunConfig,
    directory: RunDirectory,
    stages: Sequence[Stage],
    *,
    selected: Sequence[str],
    tracker: Tracker,
    force: bool = False,
    executor: Executor | None = None,
    load: Callable[[Stage], StageFunction] = load_stage,
    siblings: Sequence[RunDirectory] = (),
) -> list[str]:
    """Run the selected stages that are not current (all of them with `force`); returns the names of those run.

    The caller must hold the directory's lock. Distributed stages get the executor, by default this process; for the
    others one log line gives the reason. A stage that one of the `siblings`, runs under other seeds, has finished with
    the same key is adopted from there instead of being run.

    Raises:
        ArtifactError: an earlier stage that a selected one reads is not current, or is damaged.
    """
    done = []
    for number, stage in enumerate(stages, start=1):
        if stage.name not in selected:
            continue
        _require_inputs(stage, config, directory, stages, selected)
        if not force and _is_current(stage, config, directory):
            logger.info("[%d/%d] %s: current", number, len(stages), stage.name)
            continue
        key = stage_key(stage, config, directory)
        found = _reusable(stage, key, siblings)
        if found.equal is not None:
            logger.info("[%d/%d] %s: equal to that of %s", number, len(stages), stage.name, found.equal.path)
            directory.adopt(stage.name, found.equal)
            continue
        logger.info("[%d/%d] %s: %s", number, len(stages), stage.name, stage.help)
        sibling = None if found.near is None else found.near.verified(stage.name)
        with directory.stage(stage.name, key, stage.reads, sibling=sibling) as run:
            logged = StageTracker(tracker, run.work / LOG)
            _call(load(stage), config, run, logged, executor or LocalExecutor(1))
            logged.publish(run.out / LOG)
        done.append(stage.name)
        logger.info("      done in %.1f s", directory.existing_record(stage.name).seconds)
    return done


def _call(function: StageFunction, config: RunConfig, run: StageRun, tracker: Tracker, executor: Executor) -> None:
    if "executor" in signature(function).parameters:
        cast(DistributedStageFunction, function)(config, run, tracker, executor=executor)
        return
    if executor.distributed:
        logger.info(
            "      not distributed over %d workers: %s",
            executor.workers,
            NOT_DISTRIBUTED.get(run.stage, "it is one task"),
        )
    function(config, run, tracker)


class StageTracker:
    """Forwards metrics and keeps them as JSON lines, the same lines whether or not the stage was killed meanwhile."""

    def __init__(self, tracker: Tracker, path: Path) -> None:
        self._tracker, self._path = tracker, path
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:
                file.write("\n")  # the last line was truncated by a kill

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        line = {"step": step, **{name: float(value) for name, value in values.items()}}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._tracker.log(values, step=step)

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        return self._tracker.track(iterable, description, total)

    def publish(self, path: Path) -> None:
        """Write the kept lines, without the duplicates of steps that a resumed process repeated."""
        if not self._path.exists():
            return
        lines: dict[tuple[str, ...], str] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # truncated by a kill, and repeated by the resumed process
            lines[(str(entry["step"]), *sorted(entry))] = line
        path.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")


def _within(key: str, settings: Sequence[str]) -> bool:
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


class _Reusable(NamedTuple):
    """A run that has finished a stage with an equal key, and one whose key differs by the seed alone."""

    equal: RunDirectory | None
    near: RunDirectory | None


def _reusable(stage: Stage, key: StageKey, siblings: Iterable[RunDirectory]) -> _Reusable:
    finished = [(other, record.key) for other in siblings if (record := other.record(stage.name)) is not None]
    equal = (other for other, found in finished if not difference(found, key))
    near = (other for other, found in finished if _differs_by_seed(stage, found, key))
    return _Reusable(next(equal, None), next(near, None))


def _differs_by_seed(stage: Stage, old: StageKey, new: StageKey) -> bool:
    """Whether two keys have the same code, settings and data; what earlier stages made of it may differ."""
    made = {name for name in stage.reads if name != DATA}

    def unseeded(key: StageKey) -> StageKey:
        settings = {name: value for name, value in key.settings.items() if name != "seed"}
        inputs = {name: content for name, content in key.inputs.items() if name not in made}
        return StageKey(settings=settings, code=key.code, inputs=inputs)

    return not difference(unseeded(old), unseeded(new))


def difference(old: StageKey, new: StageKey) -> str:
    """Why a stage finished with one key is stale under another; empty if they are equal.

    A setting that is missing in one of them counts as None.
    """
    if old.code != new.code:
        return f"its code changed (version {old.code} -> {new.code})"
    for key in sorted(old.settings.keys() | new.settings.keys()):
        before, now = old.settings.get(key), new.settings.get(key)
        if before != now and key not in old.inputs and key not in new.inputs:
            return f"{key} changed ({before} -> {now})"
    for key in sorted(old.inputs.keys() | new.inputs.keys()):
        if old.inputs.get(key) != new.inputs.get(key):
            return f"the contents of {key} changed"
    return ""


def _is_current(stage: Stage, config: RunConfig, directory: RunDirectory) -> bool:
    record = directory.record(stage.name)
    if record is None or difference(record.key, stage_key(stage, config, directory)):
        return False
    wrong = directory.damage(stage.name)
    if wrong:
        raise ArtifactError(f"{wrong}; delete {directory.folder(stage.name)} to run the stage again")
    return True


def _require_inputs(
    stage: Stage, config: RunConfig, directory: RunDirectory, stages: Sequence[Stage], selected: Sequence[str]
) -> None:
    """Refuse inputs that are not current and not selected."""
    read = {stage_and_part(name)[0] for name in stage.reads}
    for entry in status(config, directory, stages):
        if entry.stage.name in read and entry.stage.name not in selected and entry.state != "current":
            raise ArtifactError(
                f"{stage.name} reads {entry.stage.name}, which is {entry.state} ({entry.reason}); "
                f"run it first, or all stages with `recsys run`"
            )
