"""The tokenize stage: item vectors become unique semantic ids.

Reads 01_dataset and 02_embeddings; writes `discrete/`: `semantic_ids.parquet`, `tokenizer.safetensors`,
`tokenizer.json` and `token_quality.json`.
"""

from __future__ import annotations

from pipelines.config import RunConfig
from recsys.artifacts import StageRun, write_json
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.tables import ItemVectors
from recsys.tokenization.inputs import combine
from recsys.tokenization.quality import item_categories, token_quality
from recsys.tokenization.tokenizer import fit_rqvae
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    embeddings = run.read("embed")
    text = ItemVectors.load(embeddings / "text.parquet")
    behaviour = embeddings / "collaborative.parquet"
    collaborative = ItemVectors.load(behaviour) if behaviour.exists() else None
    vectors, scale = combine(text, collaborative, config.tokenize)
    tokenizer = fit_rqvae(
        vectors, config.tokenize, seed=config.seed, scale=scale, work=run.work / "rqvae", tracker=tracker
    )
    ids = tokenizer.assign(vectors, text.item_ids)
    quality = token_quality(
        tokenizer,
        vectors,
        ids,
        seed=config.seed,
        categories=item_categories(dataset.catalog),
        histories=training_histories(dataset.interactions, dataset.catalog),
    )
    out = run.out / "discrete"
    out.mkdir()
    ids.save(out / "semantic_ids.parquet")
    tokenizer.save(out)
    write_json(out / "token_quality.json", quality.to_dict())
    run.note(
        items=len(ids),
        collision_rate_before_assignment=round(quality.collision_rate, 4),
        displaced=round(quality.displaced, 4),
        perplexity=[round(level.perplexity, 1) for level in quality.levels],
    )
