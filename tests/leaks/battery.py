"""What the leak battery is made with: a run, the same run with other held-out items, and the comparison of its stages.

Two runs that differ in held-out items alone are compared stage by stage: each is made from the earlier stages of one
finished run, so that equal outputs of every stage mean equal runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import FOLDERS, STAGES
from pipelines.config import RunConfig
from pipelines.runner import LOG, StageTracker, load_stage, run_stages
from recsys.artifacts import RunDirectory, StageRun
from recsys.baselines import sasrec_training
from recsys.data.dataset import Dataset
from recsys.data.policy import ServedPolicy
from recsys.files import file_sha256, text_sha256
from recsys.instructions.config import TaskWeights
from recsys.ranking.loading import RankingContext
from recsys.ranking.registry import fit_rankers
from recsys.ranking.validation import HeadValidator, ValidationUsers
from recsys.tables import TRAIN, Interactions
from recsys.tracking import NullTracker
from tests.pipelines.finished import configured

CONFIG = configured(
    "prepare.synthetic.num_users=60",
    "prepare.synthetic.num_interactions=600",
    "embed.sasrec.epochs=4",
    "embed.sasrec.validate_every=1",
    "embed.sasrec.vector_epochs=2",
    "tokenize.epochs=3",
    "tokenize.continuous.epochs=3",
    "diffuse.plain_epochs=2",
    "diffuse.validate_every=1",
    "diffuse.num_samples=4",
    "diffuse.sampling_steps=4",
    "recommend.num_beams=10",
    "recommend.k=10",
    *(f"instruct.weights.{task}=0.1" for task in TaskWeights.model_fields if task != "sequential"),
)
MEASURED = {"timings.json"}  # seconds: never the same twice
Contents = dict[str, str]
"""File -> a hash of its contents."""


def run_until_ranked(folder: Path) -> RunDirectory:
    """Every stage before the report."""
    directory = RunDirectory(folder, FOLDERS)
    names = [stage.name for stage in STAGES if stage.name != "evaluate"]
    with directory.lock():
        run_stages(CONFIG, directory, STAGES, selected=names, tracker=NullTracker())
    return directory


def with_other_items(
    run: RunDirectory, folder: Path, *splits: int, user_ids: Sequence[str] | None = None
) -> RunDirectory:
    """A copy of a run whose dataset has other items in the rows of some splits; its later stages are as they were.

    Args:
        user_ids: only in the rows of these users.
    """
    directory = RunDirectory(Path(shutil.copytree(run.path, folder)), FOLDERS)
    dataset = dataset_of(run)
    changed = Dataset(with_redrawn_items(dataset, splits, user_ids), dataset.catalog, dataset.card)

    def save(config: RunConfig, run: StageRun, tracker: object) -> None:
        changed.save(run.out)

    with directory.lock():
        run_stages(
            CONFIG,
            directory,
            STAGES,
            selected=["prepare"],
            tracker=NullTracker(),
            force=True,
            load=lambda _: save,
        )
    return directory


def with_redrawn_items(dataset: Dataset, splits: Sequence[int], user_ids: Sequence[str] | None) -> Interactions:
    """Rows of some splits get the items of other users' rows, the popular ones exchanged for unpopular ones.

    Shuffling alone would keep how often each item occurs, and a count over all rows would not be found.
    """
    frame = dataset.interactions.frame
    by_count = frame.filter(split=TRAIN)["item_id"].value_counts(sort=True)["item_id"].to_list()
    by_count += [item for item in dataset.catalog.item_ids if item not in by_count]
    opposite = dict(zip(by_count, reversed(by_count), strict=True))
    items, rng = frame["item_id"].to_numpy().copy(), np.random.default_rng(1)
    theirs = np.ones(len(frame), np.bool_) if user_ids is None else frame["user_id"].is_in(user_ids).to_numpy()
    for split in splits:
        rows = np.flatnonzero(theirs & (frame["split"].to_numpy() == split))
        items[rows] = [opposite[item] for item in rng.permutation(items[rows])]
    return Interactions(frame.with_columns(pl.Series("item_id", items.tolist(), dtype=pl.String)))


def dataset_of(run: RunDirectory) -> Dataset:
    return Dataset.load(run.folder("prepare"))


def output(run: RunDirectory, name: str, folder: Path) -> Contents:
    """What a stage writes, made anew from the earlier stages of a run, which is not changed."""
    stage = next(stage for stage in STAGES if stage.name == name)
    out, work = (folder / name / part for part in ("out", "work"))
    for path in (out, work):
        path.mkdir(parents=True)
    tracker = StageTracker(NullTracker(), work / LOG)
    load_stage(stage)(CONFIG, StageRun(name, out, work, run, stage.reads), tracker)
    tracker.publish(out / LOG)
    paths = (path for path in out.rglob("*") if path.is_file() and path.name not in MEASURED)
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in paths}


def recorded(run: RunDirectory, name: str) -> Contents:
    """What a stage of a finished run wrote."""
    files = run.existing_record(name).files
    return {file: entry.sha256 for file, entry in files.items() if Path(file).name not in MEASURED}


def counted(run: RunDirectory, folder: Path) -> Contents:
    """What the stage that ranks learns of interactions itself: counts, what rankers fit, the served policy."""
    context = RankingContext.load({"prepare": run.folder("prepare")}, CONFIG.recommend, max_history=20, seed=0)
    fit_rankers(context, folder / "rankers")
    fitted = {path.name: file_sha256(path) for path in (folder / "rankers").rglob("*") if path.is_file()}
    served = ServedPolicy.choose("auto", dataset_of(run).interactions, repeat_share=0.05)
    popularity = text_sha256(str(context.items.counts.tolist()))
    return {"popularity": popularity, "served.json": text_sha256(str(served.to_json())), **fitted}


def different(one: Contents, other: Contents) -> set[str]:
    """The files that are not the same in both."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@contextmanager
def no_choice() -> Iterator[None]:
    """Validation scores rise with every call, so that every training keeps its last epoch."""
    calls = iter(range(10_000))

    def rising(*_: object) -> float:
        return float(next(calls))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sasrec_training, "_ndcg", rising)
        patch.setattr(ValidationUsers, "ndcg", rising)
        patch.setattr(HeadValidator, "preference", rising)
        patch.setattr(HeadValidator, "head", rising)
        yield
