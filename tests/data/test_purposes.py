"""Validation users are dealt out to what they choose: no user chooses two things."""

import logging
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.purposes import Purpose, users_for
from recsys.tables import Histories, Queries

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def validation(user_ids: list[str]) -> Queries:
    """User number n has item n as the history and item n + 1 as the target."""
    numbers = np.arange(len(user_ids))
    return Queries(Histories.from_lists(user_ids, numbers[:, None]), numbers + 1)


@settings(deadline=None, max_examples=60)
@given(
    user_ids=st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=60),
    seed=st.integers(0, 5),
    limit=st.none() | st.integers(1, 30),
)
def test_purposes_share_no_user_and_whoever_is_chosen_is_a_validation_user(
    user_ids: list[str], seed: int, limit: int | None
) -> None:
    everybody = validation(user_ids)
    found = {purpose: users_for(purpose, everybody, seed=seed, limit=limit) for purpose in PURPOSES}
    chosen = [user for users in found.values() for user in users.user_ids]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) <= set(user_ids)
    for users in found.values():
        numbers = [user_ids.index(user) for user in users.user_ids]
        assert numbers == sorted(numbers)
        assert [users.histories[row].tolist() for row in range(len(users))] == [[number] for number in numbers]
        assert users.targets.tolist() == [number + 1 for number in numbers]
    shares = {"epochs": 0.4, "scoring": 0.2, "fusion": 0.4}
    for purpose, users in found.items():
        share = shares[purpose] * len(user_ids)
        assert limit is not None or abs(len(users) - share) < 1
        assert len(users) >= min(limit or len(user_ids), int(share))
    assert limit is not None or len(chosen) == len(user_ids)


def test_who_a_user_is_and_the_seed_decide_and_not_the_order() -> None:
    user_ids = [f"u{number}" for number in range(200)]
    ordered, turned = validation(user_ids), validation(user_ids[::-1])
    drawn = [set(users_for("fusion", users, seed=1).user_ids) for users in (ordered, turned)]
    other = set(users_for("fusion", ordered, seed=2).user_ids)
    assert drawn[0] == drawn[1] != other
    assert 10 < len(drawn[0] & other) < 60, "about two fifths of two fifths, by chance alone"


def test_fewer_users_are_among_more() -> None:
    everybody = validation([f"u{number}" for number in range(100)])
    few, more = (set(users_for("epochs", everybody, seed=0, limit=limit).user_ids) for limit in (5, 20))
    assert (len(few), len(more), few < more) == (5, 20, True)


@pytest.mark.parametrize(("number", "missing"), [(0, []), (1, ["scoring", "fusion"]), (2, ["scoring"]), (3, [])])
def test_a_purpose_that_gets_nobody_is_named(number: int, missing: list[str], caplog: pytest.LogCaptureFixture) -> None:
    everybody = validation([f"u{user}" for user in range(number)])
    with caplog.at_level(logging.WARNING):
        sizes = {purpose: len(users_for(purpose, everybody, seed=0)) for purpose in PURPOSES}
    assert sum(sizes.values()) == number
    assert [record.getMessage().split(":")[0] for record in caplog.records] == missing
    assert all(f"none of {number} validation users is left" in record.getMessage() for record in caplog.records)
