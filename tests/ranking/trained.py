"""A run's folders with every model trained on the circle, and the rankers that they give."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys.data.histories import queries, training_histories
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.heads import fit_head
from recsys.diffusion.training import fit_preference
from recsys.llm.conditions import QueryConditions, training_conditions
from recsys.llm.storage import load_language_model
from recsys.ranking.base import Ranker
from recsys.ranking.config import FusionConfig, RecommendConfig
from recsys.ranking.loading import RANKERS_FOLDER, SASREC_FOLDER, RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.registry import build_rankers, fit_rankers
from recsys.ranking.tuning import FusionParams, TuningUsers, tune
from recsys.ranking.validation import HeadValidator, ValidationUsers, load_samples, save_samples
from recsys.retrieval.index import ItemIndex
from recsys.tables import SEEN_LEFT_OUT, VALIDATION, CandidateFilter, Histories, ItemVectors, Queries
from recsys.training.plan import Run
from tests.ranking.fakes import NUM_ITEMS, READING_ITEMS, cycle, finetuned, ids, sasrec

# fp32: bf16 draws other samples of a request in another batch, and some CPUs would take bf16.
DIFFUSE = DiffuseConfig(
    hidden_size=32,
    num_layers=1,
    epochs=30,
    batch_size=64,
    learning_rate=5e-3,
    ema_decay=0.9,
    num_samples=8,
    precision="fp32",
)
RECOMMEND = RecommendConfig(k=5, num_beams=12, neighbors_per_sample=4)
STAGES = ("prepare", "embed", "tokenize/discrete", "tokenize/continuous", "finetune", "diffuse", "index")


class Trained(NamedTuple):
    """`params` is what the validation users chose for `rankers`; `users` are 30 of them."""

    folders: dict[str, Path]
    context: RankingContext
    rankers: dict[str, Ranker]
    params: FusionParams
    users: Queries

    def batch(self, *, exclude_seen: bool = True, candidates: CandidateFilter | None = None) -> RankingBatch:
        """The validation users' requests."""
        return batch(self.users.histories, exclude_seen=exclude_seen, candidates=candidates)


def batch(
    histories: Histories, *, exclude_seen: bool = True, candidates: CandidateFilter | None = None
) -> RankingBatch:
    """Requests as the rankers of the circle see them."""
    return RankingBatch.build(histories, max_history=20, exclude_seen=exclude_seen, candidates=candidates)


def train(root: Path) -> Trained:
    """Both routes, the plain heads, SASRec and what rankers fit themselves."""
    folders = {name: root / name for name in (*STAGES, RANKERS_FOLDER)}
    for name in STAGES:
        folders[name].mkdir(parents=True)
    dataset = cycle()
    dataset.save(folders["prepare"])
    sasrec(dataset).save(folders["embed"] / SASREC_FOLDER)
    ids(dataset).save(folders["tokenize/discrete"] / "semantic_ids.parquet")
    latents = np.random.default_rng(0).standard_normal((NUM_ITEMS, 6)).astype(np.float32)
    ItemVectors(dataset.catalog.item_ids, latents).save(folders["tokenize/continuous"] / "latents.parquet")
    language_model = load_language_model(
        finetuned(dataset, ids(dataset), folder=folders["finetune"], config=READING_ITEMS)
    )
    training = training_histories(dataset.interactions, dataset.catalog)
    asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=20)
    users = ValidationUsers.sample(asked, users=30, exclude_seen=True, seed=0)
    validator = HeadValidator(users, latents, seed=0)
    conditions = training_conditions(language_model, ids(dataset), training, window=50)
    rows = conditions.states.numpy(), conditions.targets.numpy(), latents, DIFFUSE
    states = QueryConditions(language_model, ids(dataset))(users.queries.histories, window=20).numpy()
    preference = fit_preference(*rows, seed=0, validate=lambda model: validator.preference(model, states))
    preference.save(folders["diffuse"])
    for kind in ("regression", "cross_entropy"):
        fit_head(kind, *rows, run=Run(kind, 0)).save(folders["diffuse"])
    save_samples(preference.sample(states, range(len(states)), seed=0, num_samples=2), folders["diffuse"])
    ItemIndex.build(latents, queries=load_samples(folders["diffuse"])).save(folders["index"])
    context = RankingContext.load(folders, RECOMMEND, max_history=20, seed=0)
    fit_rankers(context, folders[RANKERS_FOLDER])
    rankers = build_rankers(context)
    everybody = TuningUsers.of(asked, max_history=20)
    params = tune(rankers, everybody, everybody, FusionConfig(), served=SEEN_LEFT_OUT)
    return Trained(folders, context, rankers, params, users.queries)
