"""Every user counts, every metric agrees with a count by hand, and irregular rankings are reported."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from recsys.errors import DataError
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.evaluation import Estimate, evaluate_queries
from recsys.evaluation.examples import example_users
from recsys.evaluation.metrics import ranked_items
from recsys.evaluation.slices import by_history_length, by_target_popularity
from recsys.tables import RANKING_SCHEMA, Catalog, Histories, Queries, Rankings
from tests.evaluation import fakes


def test_metrics_count_users_without_rows_as_misses() -> None:
    good = fakes.evaluation().headline.systems["good"]
    assert good.users_without_rows == 1
    assert good.metrics["hr@1"].value == 1 / 4
    assert good.metrics["hr@2"].value == 2 / 4
    assert good.metrics["hr@5"].value == 3 / 4
    assert good.metrics["ndcg@5"].value == pytest.approx((1 + 1 / math.log2(3) + 1 / 2) / 4)
    assert good.metrics["mrr@5"].value == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)


def test_intervals_hold_their_values() -> None:
    for system in fakes.evaluation().headline.systems.values():
        assert all(0 <= e.low <= e.value <= e.high <= 1 for e in system.metrics.values())


def test_out_of_catalogue_and_repeated_items_are_counted_and_noticed() -> None:
    found = fakes.evaluation()
    wild = found.headline.systems["wild"]
    assert (wild.out_of_catalogue_items, wild.repeated_items) == (1, 1)
    assert found.headline.systems["good"].out_of_catalogue_items == 0
    assert any("wild returned 1 out-of-catalogue items" in notice for notice in found.headline.notices)
    for notice in ("1 of 4 users have a cold-start target", "wild repeated an item within a list 1 times"):
        assert any(notice in line for line in [*found.notices, *found.headline.notices])


def test_lists_shorter_than_the_largest_cutoff_are_noticed() -> None:
    notices = fakes.evaluation().headline.notices
    assert "good returned at most 3 items a user; metrics at larger cutoffs do not change." in notices


def test_examples_show_the_newest_items_of_a_long_history() -> None:
    history = [0] * 5 + [1] * 10
    (shown,) = example_users(
        fakes.rankings(),
        queries=Queries(Histories.from_lists(["u1"], [history]), np.array([1])),
        catalog=fakes.catalog(),
        cutoff=2,
        count=1,
        generator=np.random.default_rng(0),
    )
    assert (shown.history, shown.earlier) == (["Pot & lid"] * 10, 5)


def test_an_out_of_catalogue_item_keeps_its_rank() -> None:
    ranked = ranked_items(fakes.rankings(), source="wild", user_ids=fakes.USERS, catalog=fakes.catalog(), depth=3)
    assert ranked.items.tolist() == [[0, 0, -1], [-1, 3, -1], [-1, -1, -1], [-1, -1, -1]]


def test_slices_hold_every_user_once_and_average_to_the_whole() -> None:
    found = fakes.evaluation()
    for name in ("history length", "target popularity"):
        rows = [row for row in found.headline.slices if row.name == name]
        assert sum(row.users for row in rows) == found.users
        total = sum(row.users * (row.values["good"]["ndcg@2"] or 0) for row in rows)
        assert total / found.users == pytest.approx(found.headline.systems["good"].metrics["ndcg@2"].value)


def test_slices_point_users_at_the_right_groups() -> None:
    users = {(row.name, row.label): row.users for row in fakes.evaluation().headline.slices}
    assert users["history length", "new user"] == 1
    assert users["history length", "1 to 2"] == 2
    assert users["target popularity", "cold start (no interactions)"] == 1
    assert users["target popularity", "head (top 10 %)"] == 1
    assert users["target category", "Kitchen"] == 2
    assert users["target category", "Light"] == 1


def test_the_edges_of_slices() -> None:
    lengths = [0, 1, 2, 3, 4, 5, 9, 10, 49, 50]
    users = Queries(Histories.from_lists(list("abcdefghij"), [[0] * n for n in lengths]), np.arange(10) * 2)
    by_length = by_history_length(users)
    assert [by_length.labels[group] for group in by_length.groups] == [
        *("new user", "1 to 2", "1 to 2", "3 to 4", "3 to 4", "5 to 9", "5 to 9", "10 to 19", "20 to 49", "50 or more")
    ]
    popularity = np.where(np.arange(22) < 20, 100 - np.arange(22), 0)
    by_popularity = by_target_popularity(
        Queries(users.histories, np.array([0, 1, 2, 8, 9, 10, 18, 19, 20, 21])), popularity
    )
    assert by_popularity.groups.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


def test_the_difference_of_equal_systems_is_zero_without_doubt() -> None:
    (equal,) = [
        c
        for c in fakes.evaluation(more=1).headline.comparisons
        if {c.better, c.worse} == {"popular", "popular 0"} and c.metric == "hr@2"
    ]
    assert equal.difference == Estimate(0, 0, 0)
    assert equal.p == 1


def test_comparisons_name_the_better_system_and_correct_upwards() -> None:
    comparisons = fakes.evaluation().headline.comparisons
    assert len(comparisons) == 6
    assert all(c.difference.value >= 0 and c.p <= c.p_holm <= 1 for c in comparisons)
    assert {c.better for c in comparisons if c.worse == "wild" and c.metric == "ndcg@2"} == {"good", "popular"}


def test_the_same_seed_gives_the_same_json() -> None:
    texts = [json.dumps(fakes.evaluation().to_json()) for _ in range(2)]
    assert texts[0] == texts[1]
    assert set(json.loads(texts[0])["policies"]["seen-kept"]["systems"]["good"]["metrics"]["hr@2"]) == {
        "value",
        "low",
        "high",
    }


def test_a_repeated_first_item_of_the_catalogue_is_counted_and_padding_is_not() -> None:
    rows = [("u1", rank, item, 0.0, "s") for rank, item in enumerate("aba", start=1)]
    found = ranked_items(
        Rankings(pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row")),
        source="s",
        user_ids=fakes.USERS,
        catalog=fakes.catalog(),
        depth=6,
    )
    assert found.repeated_items == 1


@pytest.mark.parametrize("complete", [False, True])
def test_items_without_a_category_are_noticed_where_there_are_any(complete: bool) -> None:
    frame = fakes.catalog().frame
    found = evaluate_queries(
        fakes.rankings(),
        queries=fakes.queries(),
        catalog=Catalog(frame.fill_null("Home > Kitchen") if complete else frame),
        popularity=fakes.POPULARITY,
        config=EvaluateConfig(num_resamples=100),
        generator=np.random.default_rng(0),
    )
    about = [notice for notice in found.notices if "category" in notice]
    assert about == ([] if complete else ["1 items have no category; they are in no category slice."])


def test_a_catalogue_without_categories_is_noticed() -> None:
    plain = type(fakes.catalog())(fakes.catalog().frame.select("item_id", "title"))
    found = evaluate_queries(
        fakes.rankings(),
        queries=fakes.queries(),
        catalog=plain,
        popularity=fakes.POPULARITY,
        config=EvaluateConfig(num_resamples=100),
        generator=np.random.default_rng(0),
    )
    assert all(row.name != "target category" for row in found.headline.slices)
    assert any("No slices by category" in notice for notice in found.notices)
    assert found.headline.systems["good"].beyond.diversity is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("u1", 0, "a", 0.0, "s")], "ranks start at 1"),
        ([("u1", 1, "a", 0.0, "s"), ("u1", 1, "b", 0.0, "s")], "repeat a rank"),
        ([], "rankings are empty"),
    ],
)
def test_rankings_that_make_no_sense_are_refused(rows: list[tuple[object, ...]], message: str) -> None:
    broken = Rankings(pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row"))
    with pytest.raises(DataError, match=message):
        evaluate_queries(
            broken,
            queries=fakes.queries(),
            catalog=fakes.catalog(),
            popularity=fakes.POPULARITY,
            config=EvaluateConfig(),
            generator=np.random.default_rng(0),
        )


def test_no_users_are_refused() -> None:
    no_users = Queries(Histories.from_lists([], []), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no user has a target"):
        evaluate_queries(
            fakes.rankings(),
            queries=no_users,
            catalog=fakes.catalog(),
            popularity=fakes.POPULARITY,
            config=EvaluateConfig(),
            generator=np.random.default_rng(0),
        )


def test_examples_show_found_users_first_and_mark_the_target() -> None:
    shown = example_users(
        fakes.rankings(),
        queries=fakes.queries(),
        catalog=fakes.catalog(),
        cutoff=2,
        count=4,
        generator=np.random.default_rng(0),
    )
    # u3's item is at rank 3: no system found it within two ranks, and there are no others to draw.
    assert len(shown) == 3
    assert [bool(example.finders) for example in shown] == [True, True, False]
    assert all(entry.title == e.target for e in shown for found in e.lists.values() for entry in found if entry.hit)
