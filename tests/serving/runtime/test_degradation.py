"""The ladder goes down when its estimates or failures say so, no further than needed, and comes back up."""

import pytest

from serving.engine.interface import TIERS, Tier
from serving.runtime.degradation import Arrivals, Cost, Ladder, LadderConfig

COSTS: dict[Tier, float] = {"full": 0.1, "narrow": 0.03, "dense": 0.01, "popularity": 0.0001}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ladder(clock: Clock) -> Ladder:
    """Knows that a request costs `COSTS`, whatever comes with it."""
    known = Ladder(TIERS, LadderConfig(reserve_ms=0, backlog_share=0.5), clock=clock)
    for tier, seconds in COSTS.items():
        for size in (1, 32, 8) * 20:
            known.observe(tier, size, seconds * size)
    return known


def test_an_unknown_cost_is_taken_for_nothing() -> None:
    choice = Ladder(TIERS).choose([0.001, 2.0], [[0.001]])
    assert choice == ("full", [0, 1], None)


@pytest.mark.parametrize(("base", "each"), [(0.05, 0.0), (0.05, 0.01), (0.0, 0.01)])
def test_a_cost_is_learned_as_a_line(base: float, each: float) -> None:
    cost = Cost()
    for size in (1, 32, 8, 16, 4) * 10:
        cost.observe(size, base + each * size)
    for size in (1, 8, 32):
        assert cost.mean(size) == pytest.approx(base + each * size, rel=0.15, abs=0.01)
        assert cost.cautious(size) >= cost.mean(size)


def test_a_cost_of_one_size_is_half_fixed() -> None:
    cost = Cost()
    for _ in range(5):
        cost.observe(10, 1.0)
    assert (cost.mean(10), cost.mean(20), cost.mean(1)) == pytest.approx((1.0, 1.5, 0.55))


def test_one_stall_is_hardly_believed_and_several_are() -> None:
    cost = Cost()
    for _ in range(10):
        cost.observe(8, 0.1)
    cost.observe(8, 60.0)
    assert cost.cautious(8) < 0.5
    for _ in range(40):
        cost.observe(8, 60.0)
    assert cost.mean(8) > 30


@pytest.mark.parametrize(
    ("left", "tier"), [(2.0, "full"), (0.4, "narrow"), (0.12, "dense"), (0.02, "popularity"), (1e-9, "popularity")]
)
def test_a_batch_gets_the_best_tier_that_fits_its_time(ladder: Ladder, left: float, tier: Tier) -> None:
    choice = ladder.choose([left] * 8, [])
    assert choice == (tier, list(range(8)), None if tier == "full" else "deadline")


def test_a_larger_batch_needs_more_time(ladder: Ladder) -> None:
    assert ladder.choose([1.0] * 8, []).tier == "full"
    assert ladder.choose([1.0] * 32, []).tier != "full"


def test_a_strained_ladder_expects_batches_to_take_longer(ladder: Ladder) -> None:
    ladder.strained = True
    assert ladder.choose([1.2] * 8, []).tier == "narrow"
    assert ladder.choose([9.0] * 16, [[9.0] * 16]).tier == "narrow"
    ladder.strained = False
    assert ladder.choose([1.2] * 8, []).tier == "full"
    assert ladder.choose([9.0] * 16, [[9.0] * 16]).tier == "full"


def test_only_the_members_that_are_tight_are_made_cheaper(ladder: Ladder) -> None:
    assert ladder.choose([5.0, 0.05, 5.0, 0.04], []) == ("dense", [1, 3], "deadline")
    assert ladder.choose([5.0, 5.0], []) == ("full", [0, 1], None)
    assert ladder.choose([5.0, 0.04, 5.0, 0.002], []) == ("popularity", [3], "deadline")


def test_a_long_queue_makes_batches_cheaper_before_anyone_expires(ladder: Ladder) -> None:
    assert ladder.choose([9.0] * 8, [[9.0] * 8]).tier == "full"
    choice = ladder.choose([9.0] * 32, [[9.0] * 32] * 3)
    assert (choice.tier, choice.reason) == ("narrow", "queue")
    assert ladder.choose([9.0] * 32, [[3.0] * 32] * 3).tier == "dense"
    assert ladder.choose([9.0] * 32, [[0.2] * 32] * 3).tier == "popularity"
    assert ladder.choose([9.0] * 32, []).tier == "full"


def test_far_too_many_get_the_cheapest_at_once_and_the_last_of_them_the_best(clock: Clock) -> None:
    quick = Ladder(TIERS, LadderConfig(reserve_ms=0), clock=clock)
    for tier, seconds in zip(TIERS, (0.01, 0.009, 0.008, 0.0001), strict=True):
        for size in (1, 32, 8) * 20:
            quick.observe(tier, size, seconds * size)
    everybody = list(range(32))
    assert quick.choose([1.0] * 32, [[1.0] * 32] * 3, rate=600) == ("popularity", everybody, "queue")
    assert quick.choose([1.0] * 32, [[1.0] * 31], rate=600) == ("full", everybody, None)
    first = quick.choose([1.0] * 32, [[1.0] * 31], rate=1500)
    assert (first.tier, first.reason) == ("popularity", "queue")
    assert 0 < len(first.members) < 32, "the others follow, as many as the queue has room for meanwhile"


def test_a_turn_at_less_than_the_best_tier_is_said_to_be(clock: Clock) -> None:
    slow = Ladder(TIERS, LadderConfig(reserve_ms=0), clock=clock)
    for tier, seconds in zip(TIERS, (1.0, 0.009, 0.0085, 0.0001), strict=True):
        for size in (1, 32, 8) * 20:
            slow.observe(tier, size, seconds * size)
    assert slow.choose([0.9] * 32, [[0.9] * 31], rate=600) == ("narrow", list(range(32)), "queue")


def test_the_turn_of_the_last_is_not_taken_from_those_in_a_hurry(ladder: Ladder) -> None:
    choice = ladder.choose([1.9] * 20, [[0.3]] * 60, rate=100)
    assert choice.tier == "popularity" or len(choice.members) * COSTS[choice.tier] < 0.3


def test_a_batch_is_made_cheaper_for_those_who_will_come_meanwhile(ladder: Ladder) -> None:
    assert ladder.choose([1.0] * 8, [], rate=1).tier == "full"
    assert ladder.choose([1.0] * 8, [], rate=10).tier == "full"
    assert ladder.choose([1.0] * 8, [], rate=100) == ("narrow", list(range(8)), "queue")
    assert ladder.choose([9.0] * 8, [], rate=100).tier == "full"
    assert ladder.choose([9.0] * 8, [], rate=1000).tier == "narrow", "there is room for 256"


def test_clients_who_wait_for_their_answers_do_not_crowd_each_other(ladder: Ladder) -> None:
    assert ladder.choose([1.0] * 4, [], rate=4 / 0.4).tier == "full"


def test_arrivals_are_counted_over_about_a_second(clock: Clock) -> None:
    arrivals = Arrivals(clock)
    assert arrivals.rate() == 0
    for _ in range(50):
        clock.now += 0.1
        for _ in range(3):
            arrivals.count()
        rate = arrivals.rate()
    assert rate == pytest.approx(30, rel=0.02)
    clock.now += 10
    assert arrivals.rate() < 0.01


def test_one_hasty_request_in_the_queue_does_not_make_a_batch_cheaper(ladder: Ladder) -> None:
    assert ladder.choose([9.0] * 32, [[0.1]]).tier == "full"
    assert ladder.choose([9.0], [[0.1]]).tier != "full"


def test_those_who_cannot_be_saved_do_not_count(ladder: Ladder) -> None:
    assert ladder.choose([9.0], [[0.0] * 20]).tier == "full"


@pytest.mark.parametrize("rate", [0.0, 10.0])
def test_a_tier_that_became_fast_again_is_found_out(ladder: Ladder, clock: Clock, rate: float) -> None:
    for _ in range(40):
        ladder.observe("full", 4, 30.0)
    chosen: list[Tier] = []
    for _ in range(200):
        clock.now += 0.1
        choice = ladder.choose([2.0] * 4, [], rate=rate)
        chosen.append(choice.tier)
        ladder.observe(choice.tier, 4, COSTS[choice.tier] * 4)
    assert chosen[0] == "narrow"
    assert set(chosen[100:]) == {"full"}


def test_a_tier_that_stays_slow_is_seldom_tried(ladder: Ladder, clock: Clock) -> None:
    chosen: list[Tier] = []
    for _ in range(2000):
        clock.now += 1.0
        choice = ladder.choose([0.2] * 4, [])
        chosen.append(choice.tier)
        ladder.observe(choice.tier, 4, COSTS[choice.tier] * 4)
    assert 2 <= chosen.count("full") <= 8


def test_nothing_is_tried_out_while_others_wait(ladder: Ladder, clock: Clock) -> None:
    for _ in range(500):
        clock.now += 1.0
        choice = ladder.choose([0.2] * 4, [[0.2]])
        assert choice.tier != "full"
        ladder.observe(choice.tier, 4, COSTS[choice.tier] * 4)


def test_a_tier_that_fails_again_and_again_is_left_out_for_a_while(ladder: Ladder, clock: Clock) -> None:
    for _ in range(2):
        ladder.failed("full", RuntimeError("secret"))
        assert ladder.choose([9.0], []).tier == "full"
    ladder.failed("full", RuntimeError("secret"))
    assert ladder.choose([9.0], []) == ("narrow", [0], "failure: RuntimeError")
    clock.now += 11
    assert ladder.choose([9.0], []).tier == "full"
    ladder.failed("full", ValueError("secret"))
    assert ladder.choose([9.0], []) == ("narrow", [0], "failure: ValueError")
    clock.now += 11
    ladder.observe("full", 1, 0.1)
    for _ in range(2):
        ladder.failed("full", RuntimeError("secret"))
    assert ladder.choose([9.0], []).tier == "full"


def test_below_leaves_out_what_fails_but_never_the_last(ladder: Ladder) -> None:
    assert [ladder.below(tier) for tier in TIERS] == ["narrow", "dense", "popularity", None]
    for tier in ("narrow", "popularity"):
        for _ in range(3):
            ladder.failed(tier, RuntimeError())
    assert [ladder.below(tier) for tier in TIERS] == ["dense", "dense", "popularity", None]
    assert ladder.choose([1e-9], []).tier == "popularity"


def test_a_bundle_may_have_few_tiers() -> None:
    assert Ladder(["popularity"]).choose([1.0], [[1.0]]) == ("popularity", [0], None)
