"""A million users, 50 ranks each, evaluated under one policy in 60 s on two cores: metrics, intervals, tests, slices.

`python -m tests.benchmarks.evaluation [--users N] [--systems N]` prints one JSON line a measurement. Users have eight
earlier items, a third of the targets is in a list. Each measurement runs in its own process, whose peak memory is
reported; `rankings_gb` of it are the table that is evaluated. `ir_measures` computes the metrics alone, without
intervals, for one system and fewer users; ours is then timed on the same table, and on the same part of the work.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import ir_measures
import numpy as np
import polars as pl
from ir_measures import RR, Success, nDCG

from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.evaluation import evaluate_queries
from recsys.evaluation.metrics import per_user_metrics, ranked_items
from recsys.metrics import IntArray
from recsys.tables import POLICY_TYPE, SEEN_KEPT, Catalog, Histories, Queries, Rankings
from tests.benchmarks.common import emit

NUM_ITEMS, RANKS, HISTORY, CATEGORIES = 50_000, 50, 8, 20
FEW_USERS = 10_000
CONFIG = EvaluateConfig()


def catalog() -> Catalog:
    numbers = range(NUM_ITEMS)
    columns = {"item_id": [f"B{n:09d}" for n in numbers], "categories": [f"All > {n % CATEGORIES}" for n in numbers]}
    return Catalog(pl.DataFrame(columns))


def queries(num_users: int, rng: np.random.Generator) -> Queries:
    ids = [f"A{n:09d}" for n in range(num_users)]
    items = rng.integers(0, NUM_ITEMS, num_users * HISTORY)
    targets = rng.integers(0, NUM_ITEMS // 2, num_users) * 2 + 1
    return Queries(Histories(ids, np.arange(num_users + 1) * HISTORY, items), targets)


def ranked(users: Queries, rng: np.random.Generator) -> IntArray:
    """Lists of different items, even ones; in a third of them the target, an odd one, at lower ranks less often."""
    items = (rng.integers(0, NUM_ITEMS // 2, (len(users), 1)) + np.arange(RANKS) * 997) % (NUM_ITEMS // 2) * 2
    ranks = rng.geometric(0.02, len(users)) - 1
    found = np.flatnonzero((rng.random(len(users)) < 0.5) & (ranks < RANKS))
    items[found, ranks[found]] = users.targets[found]
    return items


def table(users: Queries, systems: int, known: Catalog, rng: np.random.Generator) -> Rankings:
    ids, item_ids = pl.Series(users.user_ids), known.frame["item_id"]
    owners = np.repeat(np.arange(len(users), dtype=np.uint32), RANKS)
    frames = [
        pl.DataFrame(
            {
                "user_id": ids.gather(owners),
                "rank": np.tile(np.arange(1, RANKS + 1, dtype=np.int32), len(users)),
                "item_id": item_ids.gather(ranked(users, rng).reshape(-1)),
                "score": np.zeros(len(owners), np.float32),
                "source": pl.Series([f"system {number}"]).new_from_index(0, len(owners)),
            }
        )
        for number in range(systems)
    ]
    return Rankings(pl.concat(frames).with_columns(policy=pl.lit(SEEN_KEPT, POLICY_TYPE)))


def whole(num_users: int, systems: int) -> None:
    """Everything that the evaluate stage computes."""
    rng = np.random.default_rng(0)
    known, users = catalog(), queries(num_users, rng)
    rankings = table(users, systems, known, rng)
    popularity = np.bincount(users.histories.items, minlength=NUM_ITEMS)
    started, spent = time.perf_counter(), time.process_time()
    evaluate_queries(rankings, queries=users, catalog=known, popularity=popularity, config=CONFIG, generator=rng)
    emit(
        "evaluation",
        f"{num_users} users, {systems} systems",
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - spent,
        rankings_gb=rankings.frame.estimated_size("gb"),
        peak_rss_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )


def metrics_alone(num_users: int) -> None:
    """The metrics of one system, ours and those of an independent evaluator, from what each reads."""
    rng = np.random.default_rng(0)
    known, users = catalog(), queries(num_users, rng)
    rankings = table(users, 1, known, rng)
    started = time.perf_counter()
    found = ranked_items(rankings, source="system 0", user_ids=users.user_ids, catalog=known, depth=RANKS)
    ours = per_user_metrics(found.items, users.targets, cutoffs=CONFIG.cutoffs).mean(axis=0)
    own = time.perf_counter() - started
    emit("evaluation", f"metrics alone, {num_users} users: ours", seconds=own)

    ids = known.item_ids
    judged = {user: {ids[target]: 1} for user, target in zip(users.user_ids, users.targets, strict=True)}
    scores = [-float(rank) for rank in range(RANKS)]
    run = {
        user: dict(zip((ids[item] for item in items), scores, strict=True))
        for user, items in zip(users.user_ids, found.items, strict=True)
    }
    measures = [measure @ cutoff for measure in (Success, nDCG, RR) for cutoff in CONFIG.cutoffs]
    evaluator = ir_measures.evaluator(measures, judged)
    started = time.perf_counter()
    theirs = evaluator.calc_aggregate(run)
    taken = time.perf_counter() - started
    apart = max(abs(theirs[measure] - value) for measure, value in zip(measures, ours, strict=True))
    emit(
        "evaluation",
        f"metrics alone, {num_users} users: ir_measures",
        seconds=taken,
        times_slower=taken / own,
        largest_difference=float(apart),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--systems", type=int, default=2)
    parser.add_argument("--measure", choices=["whole", "metrics"], help="here and now")
    arguments = parser.parse_args()
    if arguments.measure == "whole":
        whole(arguments.users, arguments.systems)
    elif arguments.measure == "metrics":
        metrics_alone(min(FEW_USERS, arguments.users))
    else:
        for part in ("whole", "metrics"):
            command = [sys.executable, "-m", "tests.benchmarks.evaluation", *sys.argv[1:], "--measure", part]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
