"""The recommend stage: every system ranks the catalogue for every test user.

Reads 01_dataset, 02_embeddings and what the run's routes wrote (03, 05, 06, 07); writes `rankings.parquet`,
`timings.json` and, where there are two routes, `fusion.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
from safetensors import safe_open
from safetensors.numpy import save_file

from pipelines.config import RunConfig
from recsys.artifacts import StageRun, write_json
from recsys.baselines.base import Baseline, TopItems
from recsys.baselines.itemknn import fit_item_knn
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec import Sasrec
from recsys.data.dataset import Dataset
from recsys.data.histories import queries, training_histories
from recsys.diffusion.heads import QueryHead
from recsys.fusion import CROSS_ENTROPY, DENSE, FUSED, GENERATIVE, TUNED
from recsys.llm.storage import load_language_model
from recsys.rankers.ensemble import ONE_SAMPLE, Ensemble, Tuned
from recsys.rankers.generative import GenerativeRanker, excludes_seen, sampled_users
from recsys.rankers.loading import Folders, load_ensemble
from recsys.tables import TEST, VALIDATION, Rankings, SemanticIds
from recsys.tracking import Tracker

LADDER = ("popularity", "item-knn", "sasrec", "regression", CROSS_ENTROPY, ONE_SAMPLE, DENSE, GENERATIVE, FUSED)


def run(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    ranked = _Ranked(config, run, tracker)
    _baselines(ranked)
    if "diffuse" in run.reads:
        _both_routes(ranked)
    elif "finetune" in run.reads:
        ranked.system(GENERATIVE, _generative(ranked))
    ranked.save()


def _baselines(ranked: _Ranked) -> None:
    training = training_histories(ranked.dataset.interactions, ranked.dataset.catalog)
    num_items, config = len(ranked.dataset.catalog), ranked.config
    ranked.system("popularity", fit_popularity(training, num_items))
    ranked.system("item-knn", fit_item_knn(training, num_items, neighbours=config.recommend.neighbours))
    embeddings = ranked.run.read("embed")
    if config.embed.collaborative:
        ranked.system("sasrec", Sasrec.load(embeddings / "sasrec"))


def _generative(ranked: _Ranked) -> GenerativeRanker:
    return GenerativeRanker(
        load_language_model(ranked.run.read("finetune")),
        SemanticIds.load(ranked.run.read("tokenize/discrete") / "semantic_ids.parquet"),
        beams=ranked.config.recommend.beams,
        batch_size=ranked.config.recommend.batch_size,
    )


def _both_routes(ranked: _Ranked) -> None:
    """Our own parts, each alone, and what comes of fusing the two routes."""
    run, config, histories, tracker = ranked.run, ranked.config, ranked.histories, ranked.tracker
    k, exclude_seen = config.recommend.k, ranked.exclude_seen
    folders = Folders(
        run.read("prepare"),
        run.read("tokenize/discrete"),
        run.read("tokenize/continuous"),
        run.read("finetune"),
        run.read("diffuse"),
        run.read("index"),
    )
    ensemble = load_ensemble(folders, config.recommend, window=config.prepare.history, seed=config.seed)
    tuned = _tuned(ranked, ensemble)
    generated = ranked.add(
        GENERATIVE, lambda: ensemble.generate(histories, k=k, exclude_seen=exclude_seen, tracker=tracker)
    )
    asked = ensemble.ask(histories, histories.user_ids, exclude_seen=exclude_seen)
    points = QueryHead.load(folders.preference, "regression").predict(asked.states)
    ranked.add("regression", lambda: ensemble.preference.rank_points(points, asked.excluded, k=k))
    classified = ranked.add(CROSS_ENTROPY, lambda: ensemble.classify(asked, k=k))
    ranked.add(
        ONE_SAMPLE,
        lambda: ensemble.preference.rank(asked, tuned.single, k=k, samples=1, generated=generated, tracker=tracker),
    )
    dense = ranked.add(DENSE, lambda: ensemble.imagine(asked, tuned.scoring, generated, k=k, tracker=tracker))
    parts = {GENERATIVE: generated, DENSE: dense, CROSS_ENTROPY: classified}
    ranked.add(FUSED, lambda: ensemble.fuse(tuned, parts, k=k))


def _tuned(ranked: _Ranked, ensemble: Ensemble) -> Tuned:
    """Scoring and fusion, chosen on validation users, or before a kill."""
    path, config = ranked.run.work / TUNED, ranked.config
    if not path.exists():
        dataset = ranked.dataset
        asked = queries(dataset.interactions, dataset.catalog, split=VALIDATION, history=len(dataset.interactions))
        chosen = sampled_users(asked, users=config.recommend.tuning_users, seed=config.seed)
        ensemble.tune(chosen, config.recommend.fusion, exclude_seen=ranked.exclude_seen, tracker=ranked.tracker).save(
            path
        )
    tuned = Tuned.load(path)
    tuned.save(ranked.run.out / TUNED)
    ranked.run.note(**{f"validation_{name.replace(' ', '_')}": ndcg for name, ndcg in tuned.validation.items()})
    return tuned


class _Ranked:
    """The rankings of all systems, each kept in the work folder once it is made, so that a killed run goes on."""

    def __init__(self, config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        self.config, self.run, self.tracker = config, run, tracker
        self.dataset = Dataset.load(run.read("prepare"))
        interactions = self.dataset.interactions
        # Whole histories: systems look at their newest items, and none of them may come back.
        asked = queries(interactions, self.dataset.catalog, split=TEST, history=len(interactions))
        self.histories = asked.histories
        self.exclude_seen = excludes_seen(config.recommend.exclude_seen, interactions)
        self._frames: dict[str, pl.DataFrame] = {}
        self._seconds: dict[str, float] = {}

    def system(self, name: str, system: Baseline) -> None:
        """Add what a system ranks."""
        self.add(
            name,
            lambda: system.rank(
                self.histories,
                k=self.config.recommend.k,
                exclude_seen=self.exclude_seen,
                window=self.config.prepare.history,
                tracker=self.tracker,
            ),
        )

    def add(self, name: str, rank: Callable[[], TopItems]) -> TopItems:
        """The ranking that `rank` makes, or made before a kill; its first `k` places are kept."""
        path = self.run.work / f"{name.replace(' ', '_')}.safetensors"
        if not path.exists():
            started = time.perf_counter()
            found = rank()
            _keep(path, found, time.perf_counter() - started)
        found, self._seconds[name] = _kept(path)
        k = self.config.recommend.k
        self._frames[name] = Rankings.from_arrays(
            self.histories.user_ids,
            found.items[:, :k],
            found.scores[:, :k],
            catalog=self.dataset.catalog,
            source=name,
        ).frame
        return found

    def save(self) -> None:
        """Write all rankings, in the order of the ladder, and how long each took."""
        names = sorted(self._frames, key=LADDER.index)
        users = max(len(self.histories), 1)
        Rankings(pl.concat([self._frames[name] for name in names])).save(self.run.out / "rankings.parquet")
        timings = {
            name: {"seconds": self._seconds[name], "ms_per_user": 1000 * self._seconds[name] / users} for name in names
        }
        write_json(self.run.out / "timings.json", timings)
        self.run.note(users=len(self.histories), exclude_seen=self.exclude_seen)


def _keep(path: Path, found: TopItems, seconds: float) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"items": found.items, "scores": found.scores}, temporary, metadata={"seconds": str(seconds)})
    temporary.replace(path)


def _kept(path: Path) -> tuple[TopItems, float]:
    with safe_open(path, framework="numpy") as file:
        return TopItems(file.get_tensor("items"), file.get_tensor("scores")), float(file.metadata()["seconds"])
