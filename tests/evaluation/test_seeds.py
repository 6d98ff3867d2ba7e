"""Figures over seeds agree with those counted by hand and with a naive average, and their page shows them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.errors import DataError
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.estimates import shown_p
from recsys.evaluation.evaluation import evaluate
from recsys.evaluation.report import Report, render_report
from recsys.evaluation.seeds import SeedEstimate, SeedEvaluation, evaluate_seeds
from recsys.evaluation.seeds_report import SeedReport, render_seed_report
from recsys.tables import INTERACTION_SCHEMA, POLICIES, TEST, TRAIN, Interactions, Rankings
from tests.evaluation import fakes
from tests.evaluation.test_report import Page

CONFIG = EvaluateConfig(cutoffs=(1, 2, 5), slice_cutoff=2, num_resamples=500)


def dataset() -> Dataset:
    """The histories and targets of the fakes."""
    users, catalog = fakes.queries(), fakes.catalog()
    rows = [
        (user, catalog.item_ids[item], time, TEST if time == len(users.histories[u]) else TRAIN)
        for u, user in enumerate(users.user_ids)
        for time, item in enumerate([*users.histories[u], users.targets[u]])
    ]
    frame = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
    return Dataset(Interactions(frame), catalog, {})


def rankings(**lists: str) -> Rankings:
    """`popular` is the same under every seed; of `trained` the list of some users is given."""
    made = fakes.rankings().frame.filter(pl.col("source") == "popular")
    rows = [
        (user, rank, item, -float(rank), "trained")
        for user, items in lists.items()
        for rank, item in enumerate(items, start=1)
    ]
    return Rankings(pl.concat([made, pl.DataFrame(rows, schema=made.schema, orient="row")]))


SEEDS = {3: rankings(u1="b", u2="d", u3="f"), 4: rankings(u1="cb", u2="d"), 5: rankings(u2="ad", u3="af")}


def found(config: EvaluateConfig = CONFIG) -> SeedEvaluation:
    return evaluate_seeds(SEEDS.items(), dataset(), config, seed=1)


def test_means_and_deviations_over_seeds_by_hand() -> None:
    hits = found().policies["seen-kept"].systems["trained"].metrics["hr@1"]
    assert hits.by_seed == (3 / 4, 1 / 4, 0)
    assert hits.value == pytest.approx(1 / 3)
    assert hits.deviation == pytest.approx(np.std([3 / 4, 1 / 4, 0], ddof=1))
    assert 0 <= hits.low < hits.value < hits.high <= 1


def test_a_system_without_a_seed_does_not_differ_by_seed() -> None:
    same = found().policies["seen-kept"].systems["popular"].metrics["hr@2"]
    assert (len(set(same.by_seed)), same.deviation) == (1, 0)


def test_each_seeds_figures_are_those_of_its_own_evaluation() -> None:
    evaluation = found()
    for number, (_, own) in enumerate(SEEDS.items()):
        alone = evaluate(own, dataset(), CONFIG)
        for policy, name in product(POLICIES, ("popular", "trained")):
            metrics = evaluation.policies[policy].systems[name].metrics
            single = alone.policies[policy].systems[name].metrics
            assert {metric: e.by_seed[number] for metric, e in metrics.items()} == {
                metric: e.value for metric, e in single.items()
            }


def test_the_paired_test_is_of_each_users_difference_averaged_over_the_seeds() -> None:
    """All sign flips of the four users, counted: hits within two ranks, trained minus popular, averaged by hand."""
    (row,) = [c for c in found().policies["seen-kept"].comparisons if c.metric == "hr@2"]
    popular = np.array([1, 0, 0, 1])
    trained = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    differences = (trained - popular).mean(axis=0)
    assert (row.better, row.worse) == ("trained", "popular")
    assert row.difference.value == pytest.approx(differences.mean())
    flips = np.array(list(product([-1, 1], repeat=4)))
    exact = (np.abs(flips @ differences) >= abs(differences.sum()) - 1e-12).mean()
    assert row.p == pytest.approx(exact, abs=0.07)
    assert isinstance(row.difference, SeedEstimate)
    assert row.difference.by_seed == pytest.approx((trained - popular).mean(axis=1))
    assert row.difference.deviation == pytest.approx(np.std((trained - popular).mean(axis=1), ddof=1))


def many(number: int, *, better: int) -> Rankings:
    """`good` finds the target of every user, `bad` that of those from `better` on."""
    users = [f"u{user}" for user in range(number)]
    rows = [(user, 1, "a", 0.0, "good") for user in users]
    rows += [(user, 1, "b" if row < better else "a", 0.0, "bad") for row, user in enumerate(users)]
    return Rankings(pl.DataFrame(rows, schema=fakes.rankings().frame.schema, orient="row"))


def large(number: int) -> Dataset:
    rows = [
        (f"u{user}", item, time, split)
        for user in range(number)
        for time, (item, split) in enumerate([("c", TRAIN), ("a", TEST)])
    ]
    frame = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
    return Dataset(Interactions(frame), fakes.catalog(), {})


def test_a_p_value_at_the_floor_is_marked_alone_and_over_seeds() -> None:
    data, config = large(60), EvaluateConfig(num_resamples=100)
    alone = evaluate(many(60, better=60), data, config)
    assert alone.num_resamples == 100
    over = evaluate_seeds({0: many(60, better=60), 1: many(60, better=50)}.items(), data, config)
    for row in (*alone.policies["seen-kept"].comparisons, *over.policies["seen-kept"].comparisons):
        assert (row.p, row.p_at_floor) == (1 / 101, True)
        assert (row.p_holm, row.p_holm_at_floor) == (2 / 101, True)
    near = evaluate(many(60, better=2), data, config).policies["seen-kept"].comparisons
    assert [(row.p_at_floor, row.p_holm_at_floor) for row in near] == [(False, False)] * 2


def test_fewer_than_two_seeds_are_refused() -> None:
    with pytest.raises(DataError, match="got rankings of 1 seeds; two or more"):
        evaluate_seeds([(3, SEEDS[3])], dataset(), CONFIG)


def test_seeds_with_other_systems_are_refused() -> None:
    with pytest.raises(DataError, match="seed 3 has rankings of popular, trained, seed 4 of popular, good, wild"):
        evaluate_seeds([(3, SEEDS[3]), (4, fakes.rankings())], dataset(), CONFIG)


def test_the_same_seed_gives_the_same_json() -> None:
    texts = {json.dumps(found().to_json()) for _ in range(2)}
    assert len(texts) == 1
    value = json.loads(texts.pop())
    assert value["seeds"] == [3, 4, 5]
    figure = value["policies"]["seen-left-out"]["systems"]["trained"]["metrics"]["ndcg@2"]
    assert set(figure) == {"value", "low", "high", "deviation", "by_seed"}
    assert {"p_at_floor", "p_holm_at_floor"} <= set(value["policies"]["seen-kept"]["comparisons"][0])


def test_p_values_are_written_with_their_bounds() -> None:
    assert shown_p(0.0072, at_floor=True) == "p ≤ 0.0072"
    assert shown_p(1 / 10_001, at_floor=True) == "p ≤ 0.0001"
    assert shown_p(0.04567, at_floor=False) == "p = 0.046"
    assert shown_p(0.00042, at_floor=False) == "p = 0.00042"


def test_the_page_shows_means_seeds_and_differences() -> None:
    page = render_seed_report(SeedReport("Three <seeds>", found(), links={3: "../seeds/3/report.html"}))
    assert Page(page).open == []
    assert Page(page).ids() == ["systems", "seeds", "significance"]
    trained = found().policies["seen-kept"].systems["trained"].metrics["hr@2"]
    assert f"{trained.value:.4f} ± {trained.deviation:.4f}" in page
    assert f"{trained.low:.4f}–{trained.high:.4f}" in page
    assert "Three &lt;seeds&gt;" in page
    assert '<a href="../seeds/3/report.html">seed 3</a>' in page
    assert "500 resamples" in page
    assert page.count("<table") == page.count('<div class="scroll"><table')


@pytest.mark.parametrize(
    ("by_seed", "p_holm", "shown"),
    [
        ((0.1, 0.2, 0.3), 0.01, "trained &gt; popular"),
        ((0.1, -0.2, 0.9), 0.01, "trained and popular"),
        ((0.1, 0.2, 0.3), 0.06, "trained and popular"),
    ],
)
def test_a_lucky_seed_is_no_effect(by_seed: tuple[float, ...], p_holm: float, shown: str) -> None:
    evaluation = found()
    one = evaluation.policies["seen-kept"]
    difference = SeedEstimate(0.2, 0.1, 0.3, 0.1, by_seed)
    rows = [
        replace(c, better="trained", worse="popular", difference=difference, p_holm=p_holm) for c in one.comparisons
    ]
    changed = replace(evaluation, policies={"seen-kept": replace(one, comparisons=rows)})
    page = render_seed_report(SeedReport("Marked", changed))
    assert page.count(shown) == len(rows)
    ahead = sum(value > 0 for value in by_seed)
    assert len(re.findall(rf"ahead under {ahead} of 3 seeds", page)) == (0 if ahead == 3 else len(rows))


def test_the_floor_is_named_in_both_reports() -> None:
    data, config = large(60), EvaluateConfig(num_resamples=100)
    alone = evaluate(many(60, better=60), data, config)
    over = evaluate_seeds({0: many(60, better=60), 1: many(60, better=50)}.items(), data, config)
    for page in (render_report(Report("One", alone)), render_seed_report(SeedReport("Two", over))):
        assert "p ≤ 0.02" in page
        assert "floor of 100 resamples" in page
