"""A small run of every stage, finished in this process: what the tests of bundles that come from runs start with."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import FOLDERS
from pipelines.config import CONFIG, RunConfig, dump_yaml, load_config
from pipelines.runner import run_stages
from recsys.artifacts import RunDirectory
from recsys.files import write_text
from recsys.tracking import NullTracker
from tests.pipelines.short import SETTINGS

SMALLER = {
    "prepare.synthetic.num_users": 100,
    "prepare.synthetic.num_items": 60,
    "prepare.synthetic.num_interactions": 1000,
    "embed.sasrec.epochs": 1,
    "tokenize.epochs": 5,
    "tokenize.continuous.epochs": 5,
    "finetune.training.epochs": 1,
    "diffuse.epochs": 1,
    "recommend.tuning_users": 20,
    "recommend.fusion.grid": 4,
    "evaluate.num_resamples": 100,
    "evaluate.num_examples": 1,
}


def configured(*settings: str) -> RunConfig:
    """The configuration of the small run, with some settings changed."""
    return load_config("demo", [*(f"{key}={value}" for key, value in (SETTINGS | SMALLER).items()), *settings])


@contextmanager
def finished(*settings: str) -> Iterator[RunDirectory]:
    """A run of all stages, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        directory, config = RunDirectory(Path(folder) / "run", FOLDERS), configured(*settings)
        with directory.lock():
            write_text(directory.path / CONFIG, dump_yaml(config))
            names = [stage.name for stage in config.stages]
            run_stages(config, directory, config.stages, selected=names, tracker=NullTracker())
        yield directory
