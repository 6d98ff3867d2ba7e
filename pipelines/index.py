"""The index stage: a FAISS index over the items' latents, tuned on sampled latents of validation users.

Reads 03_tokens/continuous and 06_preference; writes the index (see `recsys.retrieval.storage`).
"""

from __future__ import annotations

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.ranking.validation import load_samples
from recsys.retrieval.index import ItemIndex
from recsys.tables import ItemVectors
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    latents = ItemVectors.load(run.read("tokenize/continuous") / "latents.parquet")
    queries = None
    if "diffuse" in run.reads:
        queries = load_samples(run.read("diffuse"))
    index = ItemIndex.build(latents.vectors, config=config.index, queries=queries, seed=config.seed)
    index.save(run.out)
    run.note(items=len(index), kind=index.kind, recall=round(index.recall, 4))
