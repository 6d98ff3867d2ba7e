"""The prepare stage of a refreshed run: the parent's dataset, and new interactions of its items.

Reads the parent's 01_dataset and prepare.source; writes the files of `pipelines.prepare`.
"""

from __future__ import annotations

import logging

from pipelines.config import RunConfig
from pipelines.refresh.parent import parent_folder
from recsys.artifacts import StageRun
from recsys.data.dataset import Dataset
from recsys.data.extension import CARD, extend
from recsys.data.profile import Profile
from recsys.data.raw import Rejects
from recsys.data.sources import read_source
from recsys.tracking import Tracker

logger = logging.getLogger(__name__)


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    rejects = Rejects(config.prepare.reported_rows)
    raw = read_source(
        config.prepare, seed=config.seed, work=run.work, rejects=rejects, tracker=tracker, profile=Profile()
    )
    parent = Dataset.load(parent_folder(config, "prepare"))
    dataset = extend(parent, raw, held_out=config.refresh.held_out, seed=config.seed)
    found = dataset.card[CARD]
    _warn(found)
    dataset.save(run.out)
    if len(rejects):
        rejects.save(run.out / "rejected.jsonl")
    run.note(**found)


def _warn(found: dict[str, int]) -> None:
    """Name what was left out, and what to do about it."""
    if found["of_unknown_items"]:
        logger.warning(
            "%d interactions with %d items that the run does not have are left out; a refresh adds no items, train a "
            "new run or add them to an endpoint",
            *(found["of_unknown_items"], found["unknown_items"]),
        )
    if found["not_later"]:
        logger.warning(
            "%d interactions are left out, because the run does not have them and they are not later than its last "
            "time, %d; only a new run can learn from them",
            *(found["not_later"], found["after"]),
        )
