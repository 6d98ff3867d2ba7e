"""Lists are read under both policies: as they are, and without the items of each user's history."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import recsys
from recsys.data.dataset import Dataset
from recsys.errors import DataError
from recsys.evaluation.config import EvaluateConfig
from recsys.evaluation.evaluation import Evaluation, evaluate_queries
from recsys.evaluation.policies import by_policy
from recsys.tables import INTERACTION_SCHEMA, POLICIES, POLICY_TYPE, RANKING_SCHEMA, Interactions, Policy, Rankings
from tests.evaluation import fakes


def own(**lists: str) -> Rankings:
    """One system's lists of items by user."""
    rows = [
        (user, rank, item, -float(rank), "mine")
        for user, items in lists.items()
        for rank, item in enumerate(items, start=1)
    ]
    return Rankings(pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row"))


def made_under(**parts: Rankings) -> Rankings:
    """Rankings with a column for the policy, from `seen_kept=...` and `seen_left_out=...`."""
    frames = [
        rankings.frame.with_columns(policy=pl.lit(name.replace("_", "-"), POLICY_TYPE))
        for name, rankings in parts.items()
    ]
    return Rankings(pl.concat(frames))


def evaluated(rankings: Rankings, *, cutoffs: tuple[int, ...] = (1, 2)) -> Evaluation:
    return evaluate_queries(
        rankings,
        queries=fakes.queries(),
        catalog=fakes.catalog(),
        popularity=fakes.POPULARITY,
        config=EvaluateConfig(cutoffs=cutoffs, slice_cutoff=2, num_resamples=200),
        generator=np.random.default_rng(0),
    )


def hit_rates(found: Evaluation, metric: str = "hr@1") -> dict[Policy, float]:
    return {policy: one.systems["mine"].metrics[metric].value for policy, one in found.policies.items()}


def test_what_follows_a_seen_item_moves_up() -> None:
    """u1's history is a, u2's a and b, u3's b, c and d; targets are b, d, f and a."""
    rankings = own(u1="ab", u2="adb", u3="bcf", u4="a")
    kept, left_out = by_policy(rankings, fakes.queries(), fakes.catalog()).values()
    assert kept is rankings
    rows = left_out.frame.select("user_id", "rank", "item_id").rows()
    assert rows == [("u1", 1, "b"), ("u2", 1, "d"), ("u3", 1, "f"), ("u4", 1, "a")]
    assert hit_rates(evaluated(rankings)) == {"seen-kept": 1 / 4, "seen-left-out": 1.0}


def test_an_item_outside_the_catalogue_keeps_its_place_before_the_others() -> None:
    left_out = by_policy(own(u1="zab"), fakes.queries(), fakes.catalog())["seen-left-out"]
    assert left_out.frame.select("rank", "item_id").rows() == [(1, "z"), (2, "b")]


def test_rows_that_name_their_policy_are_read_as_they_are() -> None:
    rankings = made_under(seen_kept=own(u1="ab", u2="ab"), seen_left_out=own(u1="b", u2="d", u3="f"))
    found = evaluated(rankings)
    assert hit_rates(found) == {"seen-kept": 0, "seen-left-out": 3 / 4}
    assert hit_rates(found, "hr@2")["seen-kept"] == 1 / 4
    assert found.headline is found.policies["seen-kept"]
    alone = evaluated(rankings.under("seen-left-out"))
    assert list(alone.policies) == ["seen-left-out"]
    assert alone.headline == found.policies["seen-left-out"], "another policy changes no interval"


def test_lists_that_become_shorter_than_the_cutoff_are_noticed() -> None:
    found = evaluated(own(u1="ab", u2="cd", u3="bc", u4="ab"))
    about = [line for line in found.policies["seen-left-out"].notices if "without the items of the history" in line]
    assert len(about) == 1
    assert about[0].startswith("mine: without the items of the history, the lists of 2 users are shorter than 2; give")
    assert not any("without the items" in line for line in found.policies["seen-kept"].notices)
    deep = evaluated(own(u1="abc", u2="abcd", u3="bcdef", u4="ab"))
    assert not any("without the items" in line for line in deep.policies["seen-left-out"].notices)


def test_each_policy_has_its_own_comparisons_and_corrections() -> None:
    rows = [rankings.frame.with_columns(source=pl.lit(name)) for name, rankings in (("x", own(u1="ab")), ("y", own()))]
    found = evaluated(Rankings(pl.concat([*rows, own(u1="b", u2="d").frame])))
    for one in found.policies.values():
        assert len(one.comparisons) == 2  # y has no rows
    assert found.policies["seen-kept"].comparisons != found.policies["seen-left-out"].comparisons


def test_hits_on_seen_items_and_users_whose_target_repeats_are_counted() -> None:
    queries = replace(fakes.queries(), targets=np.array([0, 3, 3, 0]))  # u1's and u3's targets are in their histories
    found = evaluate_queries(
        own(u1="a", u2="d", u3="d", u4="b"),
        queries=queries,
        catalog=fakes.catalog(),
        popularity=fakes.POPULARITY,
        config=EvaluateConfig(cutoffs=(1,), slice_cutoff=1, num_resamples=100),
        generator=np.random.default_rng(0),
    )
    kept, left_out = (found.policies[policy] for policy in POLICIES)
    assert kept.systems["mine"].hits_on_seen == pytest.approx(2 / 3)
    assert left_out.systems["mine"].hits_on_seen == 0
    rows = {row.label: row for row in kept.slices if row.name == "target repetition"}
    assert {label: (row.users, row.values["mine"]["hr@1"]) for label, row in rows.items()} == {
        "new": (2, 0.5),
        "in the history": (2, 1.0),
    }
    assert any("The target of 2 of 4 users is in their history" in line for line in found.notices)
    assert evaluated(own(u1="c")).headline.systems["mine"].hits_on_seen is None


def test_without_repeats_there_is_no_slice_of_them() -> None:
    found = evaluated(own(u1="ab"))
    assert "target repetition" not in {row.name for row in found.headline.slices}
    assert not any("in their history" in line for line in found.notices)


def test_a_user_s_own_rankings_of_a_dataset_are_read_under_both() -> None:
    rows = [("u", "a", 1, 0), ("u", "b", 2, 0), ("u", "c", 3, 2), ("v", "b", 1, 0), ("v", "d", 2, 2)]
    interactions = Interactions(pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row"))
    dataset = Dataset(interactions, fakes.catalog(), {})
    config = EvaluateConfig(cutoffs=(1, 2), slice_cutoff=2, num_resamples=100)
    found = recsys.evaluate(own(u="ac", v="bd"), dataset, config)
    assert hit_rates(found) == {"seen-kept": 0, "seen-left-out": 1}


def test_rows_without_a_policy_among_others_and_other_words_are_refused() -> None:
    with pytest.raises(DataError, match="a row has no policy; give each one, or leave the column out"):
        Rankings(own(u1="ab").frame.with_columns(policy=pl.lit(None, POLICY_TYPE)))
    with pytest.raises(DataError, match="column 'policy' is String, expected Enum"):
        Rankings(own(u1="ab").frame.with_columns(policy=pl.lit("seen-kept")))
