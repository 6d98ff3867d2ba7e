"""Every metric of every user is what an independent evaluator computes: `ir_measures`, which calls NIST's trec_eval."""

from __future__ import annotations

import ir_measures
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, Success, nDCG

from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.evaluation import evaluate_queries
from recsys.evaluation.metrics import metric_names, per_user_metrics, ranked_items
from recsys.tables import RANKING_SCHEMA, Catalog, Histories, Queries, Rankings

CUTOFFS = EvaluateConfig().cutoffs
MEASURES = {
    f"{name}@{cutoff}": measure @ cutoff
    for name, measure in (("hr", Success), ("ndcg", nDCG), ("mrr", RR))
    for cutoff in CUTOFFS
}
ITEMS = [f"i{number}" for number in range(70)]


def random_lists(seed: int) -> tuple[list[str], list[str | None], dict[str, list[str]]]:
    """Users, their targets (of a tenth None), and lists of 0 to 60 ranks; a fifth of the users has no list at all.

    Some items are not in the catalogue, and one list is of a user who is not evaluated.
    """
    rng = np.random.default_rng(seed)
    users = [f"u{number}" for number in range(int(rng.integers(1, 40)))]
    targets = [None if rng.random() < 0.1 else ITEMS[rng.integers(60)] for _ in users]
    lists = {
        user: [f"x{item}" if rng.random() < 0.05 else ITEMS[item] for item in rng.permutation(60)[: rng.integers(61)]]
        for user in (*users, "other")
        if rng.random() < 0.8
    }
    return users, targets, lists


def rankings(lists: dict[str, list[str]], seed: int) -> Rankings:
    """The lists as rows in random order, with many ties among the scores, which no metric reads."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, rank, item, float(rng.integers(3)), "system")
        for user, items in lists.items()
        for rank, item in enumerate(items, start=1)
    ]
    return Rankings(pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row").sample(fraction=1, shuffle=True, seed=seed))


def independent(
    users: list[str], targets: list[str | None], lists: dict[str, list[str]]
) -> dict[str, dict[str, float]]:
    """User -> metric -> value. Its order is that of the scores, which fall strictly with our ranks."""
    judged = {user: {target: 1} if target else {} for user, target in zip(users, targets, strict=True)}
    run = {user: {item: -float(rank) for rank, item in enumerate(items)} for user, items in lists.items()}
    names = {str(measure): name for name, measure in MEASURES.items()}
    found: dict[str, dict[str, float]] = {}
    for row in ir_measures.evaluator(list(MEASURES.values()), judged).iter_calc(run):
        found.setdefault(row.query_id, {})[names[str(row.measure)]] = row.value
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_every_user_has_the_value_of_an_independent_evaluator(seed: int) -> None:
    users, targets, lists = random_lists(seed)
    catalog = Catalog(pl.DataFrame({"item_id": ITEMS}))
    ranked = ranked_items(rankings(lists, seed), source="system", user_ids=users, catalog=catalog, depth=max(CUTOFFS))
    positions = np.array([-1 if target is None else catalog.positions[target] for target in targets])
    ours = per_user_metrics(ranked.items, positions, cutoffs=CUTOFFS)
    theirs = independent(users, targets, lists)
    expected = np.array([[theirs[user][name] for name in metric_names(CUTOFFS)] for user in users])
    assert ours == pytest.approx(expected, rel=0, abs=1e-9)


def test_means_over_users_are_those_of_an_independent_evaluator() -> None:
    users, drawn, lists = random_lists(7)
    targets = [target or ITEMS[0] for target in drawn]
    catalog = Catalog(pl.DataFrame({"item_id": ITEMS}))
    found = evaluate_queries(
        rankings(lists, 7),
        queries=Queries(Histories.from_lists(users, [[] for _ in users]), catalog.indices(targets)),
        catalog=catalog,
        popularity=np.ones(len(catalog), np.int64),
        config=EvaluateConfig(num_resamples=100),
        generator=np.random.default_rng(0),
    )
    theirs = independent(users, list(targets), lists)
    for name in MEASURES:
        mean = sum(values[name] for values in theirs.values()) / len(users)
        assert found.headline.systems["system"].metrics[name].value == pytest.approx(mean, rel=0, abs=1e-9)
    assert 0 < found.headline.systems["system"].metrics["hr@10"].value < 1


def test_of_equal_scores_the_lower_rank_comes_first_in_any_order_of_rows() -> None:
    """The one place where evaluators differ: others order ties by item id, here the rank decides."""
    rows = [("u", 2, "i1", 0.5, "s"), ("u", 3, "i2", 0.5, "s"), ("u", 1, "i3", 0.5, "s")]
    for order in (rows, rows[::-1]):
        table = Rankings(pl.DataFrame(order, schema=RANKING_SCHEMA, orient="row"))
        catalog = Catalog(pl.DataFrame({"item_id": ITEMS}))
        assert ranked_items(table, source="s", user_ids=["u"], catalog=catalog, depth=3).items.tolist() == [[3, 1, 2]]
