"""The prepare stage: import, clean and split interactions and items.

Reads prepare.source; writes 01_dataset: interactions.parquet, items.parquet, data_card.json and, if there are any,
users.parquet, dislikes.parquet and rejected.jsonl.
"""

from pipelines.config import RunConfig, data_seed
from recsys.artifacts import StageRun
from recsys.data.dataset import import_dataset
from recsys.data.raw import Rejects
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    """Import the source and write the dataset and its data card."""
    rejects = Rejects(config.prepare.reported_rows)
    dataset = import_dataset(config.prepare, seed=data_seed(config), work=run.work, rejects=rejects, tracker=tracker)
    dataset.save(run.out)
    if len(rejects):
        rejects.save(run.out / "rejected.jsonl")
    run.note(**{name: value for name, value in dataset.card.items() if name != "profile"})
