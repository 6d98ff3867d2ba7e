"""The tokenize stage: item vectors become unique semantic ids, and continuous latents.

Reads 01_dataset and 02_embeddings; writes `discrete/` (`semantic_ids.parquet`, `tokenizer.safetensors`,
`tokenizer.json`, `token_quality.json`) and `continuous/` (`latents.parquet`, `continuous.safetensors`,
`continuous.json`, `latent_quality.json`), each where the run has that route.
"""

from __future__ import annotations

from dataclasses import asdict

from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.data.categories import item_categories
from recsys.data.dataset import Dataset
from recsys.data.histories import training_histories
from recsys.files import write_json
from recsys.tables import ItemVectors
from recsys.tokenization.continuous import fit_sigma_vae
from recsys.tokenization.continuous_quality import latent_quality
from recsys.tokenization.inputs import combine
from recsys.tokenization.quality import token_quality
from recsys.tokenization.registry import fit_tokenizer
from recsys.tracking import Tracker


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    dataset = Dataset.load(run.read("prepare"))
    embeddings = run.read("embed")
    text = ItemVectors.load(embeddings / "text.parquet")
    behaviour = embeddings / "collaborative.parquet"
    collaborative = ItemVectors.load(behaviour) if behaviour.exists() else None
    if config.tokenize.kind in ("discrete", "both"):
        _discrete(config, run, tracker, dataset, (text, collaborative))
    if config.tokenize.kind in ("continuous", "both"):
        _continuous(config, run, tracker, (text, collaborative))


def _discrete(
    config: RunConfig, run: StageRun, tracker: Tracker, dataset: Dataset, blocks: tuple[ItemVectors, ItemVectors | None]
) -> None:
    vectors, scale = combine(*blocks, config.tokenize)
    tokenizer = fit_tokenizer(
        vectors, config.tokenize, seed=config.seed, scale=scale, work=run.work / "discrete", tracker=tracker
    )
    ids = tokenizer.assign(vectors, blocks[0].item_ids)
    quality = token_quality(
        tokenizer,
        vectors,
        ids,
        seed=config.seed,
        categories=item_categories(dataset.catalog),
        histories=training_histories(dataset.interactions, dataset.catalog),
    )
    out = run.out / "discrete"
    tokenizer.save(out)
    ids.save(out / "semantic_ids.parquet")
    write_json(out / "token_quality.json", asdict(quality))
    run.note(
        items=len(ids),
        collision_rate_before_assignment=round(quality.collision_rate, 4),
        displaced=round(quality.displaced, 4),
        perplexity=[round(level.perplexity, 1) for level in quality.levels],
    )


def _continuous(
    config: RunConfig, run: StageRun, tracker: Tracker, blocks: tuple[ItemVectors, ItemVectors | None]
) -> None:
    tokenizer = fit_sigma_vae(
        *blocks, config.tokenize.continuous, seed=config.seed, work=run.work / "sigma_vae", tracker=tracker
    )
    latents = tokenizer.latents(*blocks)
    quality = latent_quality(tokenizer, *blocks, seed=config.seed)
    out = run.out / "continuous"
    tokenizer.save(out)
    latents.save(out / "latents.parquet")
    write_json(out / "latent_quality.json", asdict(quality))
    run.note(latent_dimensions=latents.vectors.shape[1], active=round(quality.active, 4))
