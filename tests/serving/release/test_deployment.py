"""A new engine takes over only when it can answer; otherwise nothing changes; the previous one can come back."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.errors import ArtifactError, DataError
from serving.engine.interface import TIERS, Engine, Request
from serving.release.deployment import Deployment, ReloadInProgressError
from serving.runtime.item_updates import ItemUpdates
from tests.serving.fakes import PATIENCE, FakeEngine


def failing(error: Exception) -> FakeEngine:
    engine = FakeEngine("failing")
    engine.failures["no-decoding"] = error
    return engine


def missing(source: str | None) -> Engine:
    raise OSError(f"no such file:\n{source}")


def refusing(source: str | None) -> Engine:
    raise ArtifactError("catalog.parquet is corrupted")


def deployed(load: Callable[[str | None], Engine], *, first: FakeEngine | None = None, warm: int = 3) -> Deployment:
    return Deployment(first or FakeEngine("first"), load, warm_requests=warm, updates=ItemUpdates())


BAD: dict[str, tuple[Callable[[str | None], Engine], str]] = {
    "cannot be read": (missing, r"b2 cannot be served \(OSError: no such file: b2\)"),
    "is refused": (refusing, "^catalog.parquet is corrupted$"),
    "fails at a tier": (lambda _: failing(RuntimeError()), r"RuntimeError: no reason given"),
    "cannot answer": (lambda _: failing(DataError("no such column")), "DataError: no such column"),
    "has no items": (lambda _: FakeEngine(items=0), "nothing to a new visitor"),
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
def test_the_first_bundle_must_answer_as_well(name: str) -> None:
    with pytest.raises(ArtifactError):
        Deployment(BAD[name][0](None), missing, warm_requests=3, updates=ItemUpdates())


def test_a_bundle_is_warmed_at_every_tier_and_its_costs_are_learned() -> None:
    engine = FakeEngine(cost=lambda tier, size: 0.05 if tier == "full" else 0.0)
    selector = deployed(missing, first=engine).current.selector
    assert {call.tier for call in engine.calls} == set(TIERS)
    assert {len(call.requests) for call in engine.calls} == {1, 3}
    assert selector.choose([0.04], []).tier != "full"
    assert selector.choose([60.0], []).tier == "full"


def test_without_warm_requests_the_engine_is_not_called() -> None:
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
    with ThreadPoolExecutor() as pool:
        reload = pool.submit(deployment.reload, None)
        assert loading.wait(PATIENCE)
        for change in (lambda: deployment.reload(None), deployment.rollback):
            with pytest.raises(ReloadInProgressError, match="a reload is in progress"):
                change()
        proceed.set()
        assert reload.result().bundle == "slow"
    assert deployment.rollback().bundle == "first"


def test_out_of_catalogue_items_are_removed_from_an_answer() -> None:
    engine = FakeEngine()
    live = deployed(missing, first=engine).current
    engine.illegal = ("nowhere",)
    (answer,) = engine.recommend([Request(k=3)], "full")
    checked, removed = live.checked(answer)
    assert ([item.item_id for item in checked.items], removed) == (["i0", "i1"], 1)
    assert (checked.notices[-1].code, len(checked.notices[-1].item_ids)) == ("removed-items", 1)
    engine.illegal = ()
    (answer,) = engine.recommend([Request(k=3)], "full")
    engine.withdraw(["i1"])
    live.items_changed()
    checked, removed = live.checked(answer)
    assert ([item.item_id for item in checked.items], removed) == (["i0", "i2"], 1)
