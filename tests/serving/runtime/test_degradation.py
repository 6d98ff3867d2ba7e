"""Degradation: the best tier that meets deadlines and drains the queue, back up again, and circuit breakers."""

import itertools
import random

import pytest

from serving.engine.interface import TIERS, Tier
from serving.runtime.degradation import DegradationConfig, TierSelector

COSTS: dict[Tier, float] = {"full": 0.1, "narrow": 0.03, "no-decoding": 0.01, "popularity": 0.0001}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def learned(clock: Clock, size: int = 8, **config: float) -> TierSelector:
    """Knows that a batch of `size` costs `COSTS` a request."""
    known = TierSelector(TIERS, DegradationConfig.model_validate({"reserve_ms": 0} | config), clock=clock)
    for tier, seconds in COSTS.items():
        known.observe(tier, size, seconds * size)
    return known


@pytest.fixture
def selector(clock: Clock) -> TierSelector:
    return learned(clock)


def test_an_unknown_cost_counts_as_zero() -> None:
    assert TierSelector(TIERS).choose([0.001, 2.0], [[0.001]]) == ("full", [0, 1], None)


@pytest.mark.parametrize(
    ("left", "tier"),
    [(2.0, "full"), (0.4, "narrow"), (0.13, "no-decoding"), (0.02, "popularity"), (1e-9, "popularity")],
)
def test_a_batch_gets_the_best_tier_that_fits_its_time(selector: TierSelector, left: float, tier: Tier) -> None:
    assert selector.choose([left] * 8, []) == (tier, list(range(8)), None if tier == "full" else "deadline")


def test_half_of_a_cost_is_fixed_and_half_grows_with_the_batch(clock: Clock) -> None:
    selector = learned(clock, size=8, margin=1)
    for size, seconds in ((8, 0.8), (16, 1.2), (32, 2.0), (1, 0.45)):
        assert selector.choose([seconds * 1.01] * size, []).tier == "full"
        assert selector.choose([seconds * 0.99] * size, []).tier == "narrow"


def test_the_defaults_keep_a_margin_and_a_reserve_of_every_deadline(clock: Clock) -> None:
    selector = TierSelector(TIERS, clock=clock)
    selector.observe("full", 8, 0.8)
    assert selector.choose([0.8 * 1.5 + 0.006] * 8, []).tier == "full"
    assert selector.choose([0.8 * 1.5 + 0.004] * 8, []).tier == "narrow"


def test_the_newest_batch_has_a_fifth_of_the_weight_and_one_stall_is_clipped(clock: Clock) -> None:
    selector = learned(clock, margin=1)
    selector.observe("full", 8, 1.8)  # 0.8 + (1.8 - 0.8) / 5 = 1.0
    assert selector.choose([1.01] * 8, []).tier == "full"
    assert selector.choose([0.99] * 8, []).tier == "narrow"
    selector.observe("full", 8, 60.0)  # counts as 4.0: 1.0 + (4.0 - 1.0) / 5 = 1.6
    assert selector.choose([1.61] * 8, []).tier == "full"
    assert selector.choose([1.59] * 8, []).tier == "narrow"
    for _ in range(40):
        selector.observe("full", 8, 60.0)
    assert selector.choose([30.0] * 8, []).tier == "narrow"


def test_a_stall_on_retry_is_clipped_too(clock: Clock) -> None:
    selector = learned(clock, margin=1)
    clock.now += 6.0
    assert selector.choose([0.05], []).tier == "full"  # tried alone, since it was not used for over 5 s
    selector.observe("full", 1, 60.0)  # counts as 4 times what was expected: 4 * 0.8 for a batch of 8
    assert selector.choose([3.21] * 8, []).tier == "full"
    assert selector.choose([3.19] * 8, []).tier == "narrow"


def test_only_the_members_that_are_tight_get_a_cheaper_tier(selector: TierSelector) -> None:
    assert selector.choose([5.0, 0.08, 5.0, 0.09], []) == ("no-decoding", [1, 3], "deadline")
    assert selector.choose([5.0, 5.0], []) == ("full", [0, 1], None)
    assert selector.choose([5.0, 0.09, 5.0, 0.002], []) == ("popularity", [3], "deadline")


def test_a_queue_may_take_a_quarter_of_the_time_left_at_a_tier(selector: TierSelector) -> None:
    for pending, seconds in ((1, 1.6), (3, 3.2)):  # batches of 8 and their cost at `full`
        assert selector.choose([4.04 * seconds] * 8, [[4.04 * seconds] * 8] * pending).tier == "full"
        choice = selector.choose([3.96 * seconds] * 8, [[3.96 * seconds] * 8] * pending)
        assert (choice.tier, choice.members, choice.reason) == ("narrow", list(range(8)), "queue")
    assert selector.choose([9.0] * 8, [[0.2] * 32] * 3).tier == "popularity"
    assert selector.choose([9.0] * 32, []).tier == "full", "without a queue only deadlines count"


def test_after_a_long_queue_only_full_batches_get_a_better_tier_for_half_a_second(
    selector: TierSelector, clock: Clock
) -> None:
    assert selector.choose([0.1] * 8, [[0.1] * 8] * 3).tier == "popularity"
    clock.now += 0.4
    assert selector.choose([9.0] * 7, []).tier == "popularity"
    assert selector.choose([9.0] * 8, []).tier == "full"
    clock.now += 0.2
    assert selector.choose([9.0] * 7, []).tier == "full"


def test_one_urgent_request_in_the_queue_does_not_degrade_a_batch(selector: TierSelector) -> None:
    assert selector.choose([9.0] * 8, [[0.1]]).tier == "full"
    assert selector.choose([9.0], [[0.1]]).tier != "full"


def test_pending_requests_that_will_expire_anyway_do_not_count(selector: TierSelector) -> None:
    assert selector.choose([9.0], [[0.0] * 20]).tier == "full"


def answer(selector: TierSelector, costs: dict[Tier, float], left: float, size: int) -> list[Tier]:
    """The tier of every member of a batch, in the order of the answers."""
    tiers: list[Tier] = []
    while len(tiers) < size:
        choice = selector.choose([left] * (size - len(tiers)), [])
        selector.observe(choice.tier, len(choice.members), costs[choice.tier] * len(choice.members))
        tiers += [choice.tier] * len(choice.members)
    return tiers


def test_a_tier_that_became_fast_again_is_used_again(selector: TierSelector, clock: Clock) -> None:
    for _ in range(40):
        selector.observe("full", 4, 30.0)
    chosen = []
    for _ in range(200):
        clock.now += 0.1
        chosen.append(answer(selector, COSTS, 2.0, 4))
    assert chosen[0] == ["narrow"] * 4
    assert ["narrow"] * 3 + ["full"] in chosen, "one request tries it, after the others have their answers"
    assert all(tiers == ["full"] * 4 for tiers in chosen[60:])
    assert all("full" not in tiers for tiers in chosen[:49]), "not before retry_seconds, which are 5"


def test_a_tier_that_stays_slow_is_tried_less_and_less_often(selector: TierSelector, clock: Clock) -> None:
    tried = []
    for second in range(2000):
        clock.now += 1.0
        if "full" in answer(selector, COSTS | {"full": 1.0}, 0.2, 4):
            tried.append(second)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert gaps[:7] == [10, 20, 40, 80, 160, 300, 300]
    assert len(tried) <= 12


def test_nothing_is_tried_while_others_wait(selector: TierSelector, clock: Clock) -> None:
    for _ in range(500):
        clock.now += 1.0
        choice = selector.choose([0.2] * 4, [[0.2]])
        assert choice.tier != "full"
        assert choice.members == [0, 1, 2, 3]
        selector.observe(choice.tier, 4, COSTS[choice.tier] * 4)


def test_a_circuit_breaker_opens_after_three_failures_for_ten_seconds(selector: TierSelector, clock: Clock) -> None:
    for _ in range(2):
        selector.failed("full", RuntimeError("secret"))
        assert selector.choose([9.0], []).tier == "full"
    selector.failed("full", RuntimeError("secret"))
    clock.now += 9.9
    assert selector.choose([9.0], []) == ("narrow", [0], "failure: RuntimeError")
    clock.now += 0.2
    assert selector.choose([9.0], []).tier == "full"
    selector.failed("full", ValueError("secret"))
    assert selector.choose([9.0], []) == ("narrow", [0], "failure: ValueError")
    clock.now += 10.1
    selector.observe("full", 1, 0.1)
    for _ in range(2):
        selector.failed("full", RuntimeError("secret"))
    assert selector.choose([9.0], []).tier == "full"


def test_below_skips_open_breakers_but_never_the_last_tier(selector: TierSelector) -> None:
    assert [selector.below(tier) for tier in TIERS] == ["narrow", "no-decoding", "popularity", None]
    for tier in ("narrow", "popularity"):
        for _ in range(3):
            selector.failed(tier, RuntimeError())
    assert [selector.below(tier) for tier in TIERS] == ["no-decoding", "no-decoding", "popularity", None]
    assert selector.choose([1e-9], []).tier == "popularity"


def test_a_bundle_may_have_one_tier() -> None:
    assert TierSelector(["popularity"]).choose([1.0], [[1.0]]) == ("popularity", [0], None)


@pytest.mark.parametrize("fixed", [0.0, 0.3], ids=["cost by size", "mostly fixed cost"])
@pytest.mark.parametrize("load", [0.9, 1.5, 5.0])
def test_under_overload_answers_stay_within_the_deadline(clock: Clock, load: float, fixed: float) -> None:
    """Poisson arrivals at a multiple of the capacity of `full`, on a simulated clock."""
    costs = {tier: (fixed * seconds / COSTS["full"], seconds / 5) for tier, seconds in COSTS.items()}
    generator, selector, deadline, batch_size = random.Random(0), TierSelector(TIERS, clock=clock), 1.0, 32
    rate = load * batch_size / (costs["full"][0] + costs["full"][1] * batch_size)
    arrivals = [generator.expovariate(rate)]
    while arrivals[-1] < 30:
        arrivals.append(arrivals[-1] + generator.expovariate(rate))
    for tier in TIERS:
        selector.observe(tier, 8, costs[tier][0] + 8 * costs[tier][1])
    due, queue, latencies, full = list(arrivals), list[float](), list[float](), 0
    while due or queue:
        clock.now = clock.now if queue else max(clock.now, due[0])
        while due and due[0] <= clock.now:
            queue.append(due.pop(0))
        left = [arrival + deadline - clock.now for arrival in queue]
        pending = [left[start : start + batch_size] for start in range(batch_size, len(left), batch_size)]
        choice = selector.choose(left[:batch_size], pending)
        seconds = (costs[choice.tier][0] + costs[choice.tier][1] * len(choice.members)) * generator.uniform(0.9, 1.2)
        clock.now += seconds
        selector.observe(choice.tier, len(choice.members), seconds)
        latencies += [clock.now - queue[member] for member in choice.members]
        full += len(choice.members) * (choice.tier == "full")
        queue = [arrival for member, arrival in enumerate(queue) if member not in choice.members]
    latencies.sort()
    assert latencies[int(0.99 * len(latencies))] < deadline
    assert full > 0, "the best tier is not given up"
