"""The stages that a refreshed run does not repeat: the parent's folder is linked, and takes no space.

Reads the parent's folder of the stage; writes the same files.
"""

from __future__ import annotations

from pipelines.config import RunConfig
from pipelines.refresh.parent import parent_run
from recsys.artifacts import StageRun
from recsys.files import link
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    parent = parent_run(config)
    folder, record = parent.verified(run.stage), parent.existing_record(run.stage)
    for name in record.files:
        link(folder / name, run.out / name)
    run.notes.update(record.notes)
