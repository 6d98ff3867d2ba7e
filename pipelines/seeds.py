"""The runs of one configuration under several seeds, on one dataset.

Reads and writes `RUN/01_dataset`, and `RUN/seeds/SEED`, each a complete run directory. What is equal in several of
them, or in an earlier run in RUN itself, is computed once and linked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines import FOLDERS
from pipelines.config import RunConfig, data_seed
from pipelines.runner import DATA
from recsys.artifacts import RunDirectory
from recsys.errors import ArtifactError, ConfigError

SEEDS = "seeds"

Execute = Callable[[RunConfig, RunDirectory, Sequence[str], Sequence[RunDirectory]], None]
"""Runs the selected stages in a locked directory: (config, directory, stage names, siblings)."""


def seed_configs(config: RunConfig, count: int) -> dict[int, RunConfig]:
    """Seed -> configuration, for the configured seed and those that follow it.

    Raises:
        ConfigError: a training has a seed of its own, which would be the same in every run.
    """
    for name, own in (("finetune", config.finetune.seed), ("diffuse", config.diffuse.seed)):
        if own is not None:
            raise ConfigError(
                f"{name}.seed: got {own}, with which every seed would have the same training; leave it out with --seeds"
            )
    return {seed: seed_config(config, seed) for seed in range(config.seed, config.seed + count)}


def seed_config(config: RunConfig, seed: int) -> RunConfig:
    """The same configuration under another seed, on the same dataset."""
    if seed == config.seed:
        return config
    synthetic = config.prepare.synthetic.model_copy(update={"seed": data_seed(config)})
    prepare = config.prepare.model_copy(update={"synthetic": synthetic})
    return config.model_copy(update={"seed": seed, "prepare": prepare})


def seed_run(directory: RunDirectory, seed: int) -> RunDirectory:
    """The run of one seed, which need not exist yet."""
    return RunDirectory(directory.path / SEEDS / str(seed), FOLDERS)


def seed_runs(directory: RunDirectory) -> dict[int, RunDirectory]:
    """Seed -> run, of the seeds that were started, in order."""
    seeds = sorted(int(path.name) for path in (directory.path / SEEDS).glob("*") if _is_seed(path))
    return {seed: seed_run(directory, seed) for seed in seeds}


def run_name(directory: RunDirectory) -> str:
    """What reports call a run."""
    path = directory.path
    return f"{path.parent.parent.name}, seed {path.name}" if path.parent.name == SEEDS else path.name


def runs_folder(directory: RunDirectory) -> Path:
    """The folder beside whose runs MLflow's local store is, of a seed's run that of the whole run."""
    path = directory.path
    return path.parent.parent.parent if path.parent.name == SEEDS else path.parent


def require_own_run(directory: RunDirectory) -> None:
    """Refuse a directory that has the runs of several seeds and none of its own.

    Raises:
        ArtifactError: it names the first of them.
    """
    runs = seed_runs(directory)
    if runs and not directory.folder("recommend").exists():
        first = next(iter(runs.values()))
        raise ArtifactError(
            f"{directory.path} has one run for each of {len(runs)} seeds; give one, such as {first.path}"
        )


def run_seeds(
    configs: Mapping[int, RunConfig],
    directory: RunDirectory,
    selected: Sequence[str],
    execute: Execute,
    *,
    force: bool = False,
) -> dict[int, RunDirectory]:
    """Run the selected stages under every seed, one seed after the other; seed -> run.

    The caller must hold the directory's lock. With `force` nothing is taken from what was there before.

    Raises:
        RecsysError: as the stages raise it.
    """
    if DATA in selected:
        execute(next(iter(configs.values())), directory, [DATA], ())
    runs = {seed: seed_run(directory, seed) for seed in configs}
    others = [] if force else [directory, *(seed_runs(directory) | runs).values()]
    for seed, config in configs.items():
        own = runs[seed]
        with own.lock():
            _share_dataset(directory, own)
            siblings = [other for other in others if other.path != own.path]
            execute(config, own, [name for name in selected if name != DATA], siblings)
        others += [own] if force else []
    return runs


def _share_dataset(directory: RunDirectory, own: RunDirectory) -> None:
    if own.record(DATA) != directory.existing_record(DATA) or own.damage(DATA) is not None:
        own.adopt(DATA, directory)


def _is_seed(path: Path) -> bool:
    return path.is_dir() and path.name.removeprefix("-").isdigit()
