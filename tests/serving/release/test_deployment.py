"""A new engine takes over only when it is good; a bad one changes nothing; the one before can come back."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from recsys.errors import ArtifactError, ConfigError, DataError
from serving.engine.interface import TIERS, Answer, Engine, RankedItem, Request, Tier
from serving.release.deployment import Deployment
from serving.runtime.item_updates import ItemUpdates
from tests.serving.fakes import PATIENCE, FakeEngine


class Spoiled(FakeEngine):
    """Answers, changed by a function."""

    def __init__(self, spoil: Callable[[list[Answer]], list[Answer]], at: Tier = "narrow") -> None:
        super().__init__("spoiled")
        self.spoil, self.at = spoil, at

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        answers = super().recommend(requests, tier)
        return self.spoil(answers) if tier == self.at else answers


def with_items(change: Callable[[tuple[RankedItem, ...]], tuple[RankedItem, ...]]) -> FakeEngine:
    return Spoiled(lambda answers: [replace(answer, items=change(answer.items)) for answer in answers])


def failing(error: Exception) -> FakeEngine:
    engine = FakeEngine("failing")
    engine.failures["dense"] = error
    return engine


def listing(item_id: str) -> FakeEngine:
    engine = FakeEngine("illegal")
    engine.illegal = (item_id,)
    return engine


class Forgetful(FakeEngine):
    """Recommends an item that has been withdrawn."""

    def __init__(self) -> None:
        super().__init__("forgetful")
        self.withdraw(["i3"])
        self.illegal = ("i3",)


def missing(source: str | None) -> Engine:
    raise OSError(f"no such file:\n{source}")


def refusing(source: str | None) -> Engine:
    raise ArtifactError("catalog.parquet is corrupted")


def deployed(load: Callable[[str | None], Engine], *, first: FakeEngine | None = None, warm: int = 3) -> Deployment:
    return Deployment(first or FakeEngine("first"), load, warm_requests=warm, changes=ItemUpdates())


BAD: dict[str, tuple[Callable[[str | None], Engine], str]] = {
    "cannot be read": (missing, r"b2 cannot be served \(OSError: no such file: b2\)"),
    "is refused": (refusing, "^catalog.parquet is corrupted$"),
    "fails at a tier": (lambda _: failing(RuntimeError()), r"RuntimeError: no reason given"),
    "cannot answer": (lambda _: failing(DataError("no such column")), "DataError: no such column"),
    "recommends an unknown item": (lambda _: listing("nowhere"), "items that it does not have"),
    "recommends a withdrawn item": (lambda _: Forgetful(), "items that it does not have"),
    "has no items": (lambda _: FakeEngine(items=0), "nothing to a new visitor"),
    "loses an answer": (lambda _: Spoiled(lambda answers: answers[1:]), "0 answers to 1 requests"),
    "repeats an item": (lambda _: with_items(lambda items: items[:1] * 2), "or one twice"),
    "recommends too many": (lambda _: with_items(lambda items: (*items, replace(items[0], item_id="i29"))), "too many"),
    "scores nothing": (
        lambda _: with_items(lambda items: tuple(replace(item, score=math.nan) for item in items)),
        "no numbers",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bundle_that_is_bad_changes_nothing(name: str) -> None:
    load, words = BAD[name]
    deployment = deployed(load)
    before = deployment.current
    with pytest.raises(ArtifactError, match=words) as caught:
        deployment.reload("b2")
    assert "\n" not in str(caught.value)
    assert deployment.current is before
    with pytest.raises(DataError, match="no previous bundle"):
        deployment.rollback()


@pytest.mark.parametrize("name", sorted(set(BAD) - {"cannot be read", "is refused"}))
def test_the_first_bundle_is_tested_as_well(name: str) -> None:
    with pytest.raises(ArtifactError):
        Deployment(BAD[name][0](None), missing, warm_requests=3, changes=ItemUpdates())


def test_a_bundle_is_tested_at_every_tier_and_its_costs_are_learned() -> None:
    engine = FakeEngine(cost=lambda tier, size: 0.05 if tier == "full" else 0.0)
    ladder = deployed(missing, first=engine).current.ladder
    assert {call.tier for call in engine.calls} == set(TIERS)
    assert {len(call.requests) for call in engine.calls} == {1, 3}
    assert ladder.choose([0.04], []).tier != "full"
    assert ladder.choose([60.0], []).tier == "full"


def test_without_warm_requests_nothing_is_asked() -> None:
    engine = failing(RuntimeError())
    deployed(missing, first=engine, warm=0)
    assert engine.calls == []


def test_rollback_goes_back_once() -> None:
    deployment = deployed(lambda source: FakeEngine(str(source)))
    assert deployment.reload("second").bundle == "second"
    assert deployment.reload("third").bundle == deployment.current.bundle == "third"
    assert deployment.rollback().bundle == deployment.current.bundle == "second"
    with pytest.raises(DataError, match="no previous bundle"):
        deployment.rollback()
    assert deployment.reload(None).bundle == "None"
    assert deployment.rollback().bundle == "second"


def test_one_change_at_a_time() -> None:
    loading, proceed = threading.Event(), threading.Event()

    def slow(source: str | None) -> Engine:
        loading.set()
        assert proceed.wait(PATIENCE)
        return FakeEngine("slow")

    deployment = deployed(slow)
    first = deployment.current
    with ThreadPoolExecutor() as pool:
        reload = pool.submit(deployment.reload, None)
        assert loading.wait(PATIENCE)
        for change in (lambda: deployment.reload(None), deployment.rollback):
            with pytest.raises(ConfigError, match="a reload is in progress"):
                change()
        assert first.ladder.strained
        proceed.set()
        assert reload.result().bundle == "slow"
    assert not first.ladder.strained
    assert deployment.rollback().bundle == "first"


def test_illegal_items_are_taken_out_of_an_answer() -> None:
    engine = FakeEngine()
    live = deployed(missing, first=engine).current
    engine.illegal = ("nowhere",)
    (answer,) = engine.recommend([Request(k=3)], "full")
    checked, removed = live.checked(answer)
    assert ([item.item_id for item in checked.items], removed) == (["i0", "i1"], 1)
    engine.illegal = ()
    (answer,) = engine.recommend([Request(k=3)], "full")
    engine.withdraw(["i1"])
    live.changed()
    checked, removed = live.checked(answer)
    assert ([item.item_id for item in checked.items], removed) == (["i0", "i2"], 1)
