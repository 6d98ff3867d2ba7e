"""The runtime: right answers in any batch, each of one bundle, and an answer wherever possible."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ArtifactError, DataError
from serving.engine.interface import TIERS, Engine, Request, Tier
from serving.release.deployment import ReloadInProgressError
from serving.runtime.degradation import DegradationConfig
from serving.runtime.item_updates import ItemUpdate
from serving.runtime.metrics import Metrics
from serving.runtime.runtime import Runtime, RuntimeConfig, Served, Unavailable
from serving.runtime.work_items import Reason
from tests.serving.fakes import PATIENCE, FakeEngine

CATEGORIES = st.sampled_from(["books", "games", "music"])
REQUESTS = st.builds(
    Request,
    history=st.lists(st.sampled_from([f"i{n}" for n in range(30)] + ["nowhere"]), max_size=4).map(tuple),
    k=st.integers(1, 12),
    user=st.sampled_from([None, "someone", "refused"]),
    exclude=st.lists(st.sampled_from([f"i{n}" for n in range(30)]), max_size=3).map(tuple),
    exclude_seen=st.sampled_from([None, True, False]),
    where=st.sampled_from([(), (("categories", ("books",)),), (("categories", ("games", "music")),)]),
)


def none(source: str | None) -> Engine:
    raise ArtifactError("there is nothing to load")


class Case:
    """A runtime over a fake engine, and what is asked of it."""

    def __init__(self, runtime: Runtime, engine: FakeEngine, metrics: Metrics) -> None:
        self.runtime, self.engine, self.metrics = runtime, engine, metrics

    def ask(self, request: Request | None = None, seconds: float = PATIENCE) -> asyncio.Task[Served]:
        return asyncio.create_task(self.runtime.recommend(request or Request(), time.monotonic() + seconds))

    async def inside(self) -> asyncio.Task[Served]:
        """A request that the engine works on, for as long as it is held."""
        task = self.ask()
        assert await asyncio.to_thread(self.engine.entered.wait, PATIENCE)
        return task

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"recsys_{name}", labels)


@contextmanager
def serving(
    engine: FakeEngine | None = None, load: Callable[[str | None], Engine] = none, **config: object
) -> Iterator[Case]:
    own, metrics = engine or FakeEngine(), Metrics()
    chosen = RuntimeConfig.model_validate({"batch_wait_ms": 0, "warm_requests": 0, "max_queue": 256} | config)
    runtime = Runtime(own, chosen, metrics=metrics, load=load)
    try:
        yield Case(runtime, own, metrics)
    finally:
        runtime.close()


async def refused(task: asyncio.Task[Served]) -> Reason:
    with pytest.raises(Unavailable) as caught:
        await task
    return caught.value.reason


@settings(deadline=None, max_examples=60)
@given(st.lists(REQUESTS, min_size=1, max_size=20), st.integers(1, 8), st.integers(0, 20))
def test_answers_are_those_of_each_request_alone(requests: list[Request], max_batch: int, held: int) -> None:
    async def main() -> None:
        alone = FakeEngine()
        with case.engine.hold():
            first = await case.inside()
            tasks = [case.ask(request) for request in requests[:held]]
            await asyncio.sleep(0)
        tasks += [case.ask(request) for request in requests[held:]]
        await asyncio.wait([first, *tasks])
        for request, task in zip(requests, tasks, strict=True):
            if request.user == "refused":
                assert isinstance(task.exception(), DataError)
            else:
                assert task.result().answer == alone.recommend([request], "full")[0]
                assert task.result()[1:4] == ("fake", "full", None)

    with serving(max_batch=max_batch) as case:
        case.engine.refused = {"refused"}
        asyncio.run(main())


def test_an_answer_tells_where_its_time_went() -> None:
    async def main() -> None:
        served = await case.ask()
        assert set(served.seconds) == {"queue", "generative", "diffusion", "total"}
        assert 0 <= served.seconds["queue"] <= served.seconds["total"]
        assert case.value("stage_seconds_count", stage="queue") == 1
        assert case.value("stage_seconds_count", stage="generative") == 1
        assert case.value("batch_size_sum", tier="full") == 1

    with serving() as case:
        asyncio.run(main())


def test_a_request_that_cannot_be_answered_does_not_wait() -> None:
    async def main() -> None:
        with pytest.raises(DataError, match="column 'colour'"):
            await case.ask(Request(where=(("colour", ("red",)),)))
        assert case.engine.calls == []

    with serving() as case:
        asyncio.run(main())


def test_cancelled_and_expired_requests_do_no_work_and_a_full_queue_sheds() -> None:
    async def main() -> None:
        with case.engine.hold():
            first = await case.inside()
            gone, short, full = case.ask(Request(user="gone")), case.ask(Request(user="short"), 0.01), case.ask()
            assert await refused(full) == "full"
            assert await refused(short) == "expired"
            gone.cancel()
            await asyncio.wait([gone])
            assert await refused(case.ask(seconds=-1)) == "expired"
        await first
        await case.ask(Request(user="last"))
        assert [request.user for call in case.engine.calls for request in call.requests] == [None, "last"]
        assert case.value("shed_total", reason="full") == 1
        assert case.value("expired_total") == 2

    with serving(max_queue=2) as case:
        asyncio.run(main())


def test_tight_requests_get_a_cheaper_tier_and_the_others_do_not() -> None:
    async def main() -> None:
        with case.engine.hold():
            first = await case.inside()
            tight, relaxed = case.ask(Request(user="tight"), 5.0), case.ask(Request(user="relaxed"), 1000.0)
            await asyncio.sleep(0)
        await first
        assert ((await tight).tier, (await tight).degraded) == ("narrow", "deadline")
        assert ((await relaxed).tier, (await relaxed).degraded) == ("full", None)
        assert case.value("degraded_total", tier="narrow", reason="deadline") == 1

    with serving() as case:
        case.runtime._deployment.current.selector.observe("full", 1, 15.0)
        asyncio.run(main())


def test_a_backlog_is_answered_with_a_cheaper_tier_and_the_best_comes_back() -> None:
    async def main() -> None:
        with case.engine.hold():
            first = await case.inside()
            many = [case.ask(Request(user=str(n)), 20.0) for n in range(64)]
            await asyncio.sleep(0)
        await first
        tiers = [(await task).tier for task in many]
        assert (tiers[0], (await many[0]).degraded) == ("narrow", "queue")
        assert (await case.ask(seconds=20.0)).tier == "full"

    with serving(max_batch=4, degradation=DegradationConfig(hold_seconds=0)) as case:
        case.runtime._deployment.current.selector.observe("full", 4, 1.0)
        asyncio.run(main())


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_failing_tier_falls_to_the_next(broken: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        case.engine.failures = dict.fromkeys(TIERS[:broken], RuntimeError("someone's history"))
        served = await case.ask()
        assert (served.tier, served.degraded) == (TIERS[broken], "failure: RuntimeError")
        assert case.value("degraded_total", tier=TIERS[broken], reason="failure") == 1
        assert case.value("tier_failures_total", tier="full") == 1
        case.engine.failures = {}
        assert (await case.ask()).degraded is None

    with serving() as case, caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "failed at 'full': RuntimeError" in caplog.text
    assert "someone's history" not in caplog.text


def test_a_tier_that_fails_again_and_again_rests_and_is_tried_again() -> None:
    async def main() -> None:
        case.engine.failures = {"full": RuntimeError()}
        for number in range(100):
            assert (await case.ask()).degraded == "failure: RuntimeError"
            if len(case.engine.calls) < 2 * (number + 1):
                break
        tried: list[Tier] = [call.tier for call in case.engine.calls]
        # On a busy machine the first pause may be over before the next request.
        assert number >= 3
        assert tried == ["full", "narrow"] * number + ["narrow"]
        case.engine.failures = {}
        while (served := await case.ask()).degraded is not None:
            await asyncio.sleep(0.01)
        assert served.tier == "full"

    with serving(degradation=DegradationConfig(failures=3, pause_seconds=0.3)) as case:
        asyncio.run(main())


def test_a_crash_of_every_tier_leaves_the_thread_alive() -> None:
    async def main() -> None:
        case.engine.failures = dict.fromkeys(TIERS, MemoryError())
        assert await refused(case.ask()) == "failed"
        assert case.value("failed_total") == 1
        case.engine.failures = {}
        assert (await case.ask()).tier == "full"
        assert case.runtime.ready

    with serving() as case:
        asyncio.run(main())


def test_out_of_catalogue_items_never_leave() -> None:
    async def main() -> None:
        case.engine.illegal = ("nowhere", "elsewhere")
        served = await case.ask(Request(k=4))
        assert [item.item_id for item in served.answer.items] == ["i0", "i1"]
        assert case.value("out_of_catalogue_items_total") == 2

    with serving() as case:
        asyncio.run(main())


def test_calls_run_on_the_inference_thread() -> None:
    def broken(engine: Engine) -> None:
        raise KeyError("bug")

    async def main() -> None:
        deadline = time.monotonic() + PATIENCE
        found, bundle = await case.runtime.call(lambda engine: engine.similar("i3", 2), deadline)
        assert ([item.item_id for item in found], bundle) == (["i4", "i5"], "fake")
        with pytest.raises(DataError, match="does not have"):
            await case.runtime.call(lambda engine: engine.similar("nowhere", 2), deadline)
        with pytest.raises(Unavailable, match="failed"):
            await case.runtime.call(broken, deadline)
        with pytest.raises(Unavailable, match="expired"):
            await case.runtime.call(lambda engine: engine.similar("i3", 2), time.monotonic() - 1)

    with serving() as case:
        asyncio.run(main())


def test_a_withdrawn_item_is_in_no_later_answer() -> None:
    async def main() -> None:
        with case.engine.hold():
            first = await case.inside()
            waiting = [case.ask() for _ in range(10)]
            update = asyncio.create_task(case.runtime.update_items(ItemUpdate(withdraw=("i0",))))
            await asyncio.sleep(0)
        assert (await update).items == 29
        assert (await first).answer.items[0].item_id == "i0"
        assert {(await task).answer.items[0].item_id for task in waiting} == {"i1"}
        assert case.value("items") == 29
        with pytest.raises(DataError, match="does not have"):
            await case.runtime.update_items(ItemUpdate(withdraw=("nowhere",)))

    with serving() as case:
        asyncio.run(main())


def test_a_reload_while_many_wait_gives_no_error_and_one_bundle_an_answer() -> None:
    async def main() -> None:
        with case.engine.hold():
            first = await case.inside()
            waiting = [case.ask(Request(k=5)) for _ in range(200)]
            await asyncio.sleep(0)
            assert (await case.runtime.reload("b")).bundle == "b"
        for task, bundle in [(first, "a"), *((task, "b") for task in waiting)]:
            served = await task
            assert (served.bundle, {item.item_id[0] for item in served.answer.items}) == (bundle, {bundle})

    with serving(FakeEngine("a", prefix="a"), lambda source: FakeEngine("b", prefix="b"), warm_requests=4) as case:
        asyncio.run(main())


def test_a_reload_under_load_gives_no_error_and_one_bundle_an_answer() -> None:
    async def client(served: list[Served], done: asyncio.Event) -> None:
        while not done.is_set():
            served.append(await case.ask(Request(history=("a1", "b1"), k=5)))

    async def main() -> None:
        served: list[Served] = []
        done = asyncio.Event()
        clients = [asyncio.create_task(client(served, done)) for _ in range(200)]
        for source in ("b", "a", "b"):
            assert (await case.runtime.reload(source)).bundle == source
            assert case.runtime.engine.info.bundle == source
            while not served or served[-1].bundle != source:
                await asyncio.sleep(0)
        assert (await case.runtime.rollback()).bundle == "a"
        done.set()
        await asyncio.gather(*clients)
        assert {answer.bundle for answer in served} == {"a", "b"}
        for answer in served:
            assert {item.item_id[0] for item in answer.answer.items} == {answer.bundle}
        assert case.value("reloads_total", outcome="loaded") == 3
        assert case.value("reloads_total", outcome="rolled back") == 1
        assert case.value("bundle_info", bundle="a", routes="discrete,continuous") == 1

    def load(source: str | None) -> Engine:
        return FakeEngine(str(source), prefix=str(source))

    with serving(FakeEngine("a", prefix="a"), load, warm_requests=4) as case:
        asyncio.run(main())


def test_a_bad_bundle_changes_nothing_and_reloads_do_not_overlap() -> None:
    async def main() -> None:
        with pytest.raises(ArtifactError, match="RuntimeError: broken"):
            await case.runtime.reload("bad")
        with pytest.raises(DataError, match="no previous bundle"):
            await case.runtime.rollback()
        assert (await case.ask()).bundle == case.runtime.engine.info.bundle == "fake"
        assert case.value("reloads_total", outcome="refused") == 2
        with good.hold():
            first = asyncio.create_task(case.runtime.reload("good"))
            assert await asyncio.to_thread(good.entered.wait, PATIENCE)
            with pytest.raises(ReloadInProgressError, match="in progress"):
                await case.runtime.reload("good")
            assert (await case.ask()).bundle == "fake"
        assert (await first).bundle == "good"
        assert case.value("reloads_total", outcome="busy") == 1

    bad, good = FakeEngine("bad"), FakeEngine("good")
    bad.failures = {"narrow": RuntimeError("broken")}
    with serving(load=lambda source: bad if source == "bad" else good, warm_requests=2) as case:
        asyncio.run(main())


def test_a_drain_answers_what_was_admitted_and_refuses_the_rest() -> None:
    async def main() -> None:
        assert case.runtime.ready
        with case.engine.hold():
            first = await case.inside()
            waiting = [case.ask() for _ in range(5)]
            await asyncio.sleep(0)
            drain = asyncio.create_task(case.runtime.drain())
            await asyncio.sleep(0)
            assert not case.runtime.ready
            assert await refused(case.ask()) == "draining"
            with pytest.raises(Unavailable, match="draining"):
                await case.runtime.reload(None)
            with pytest.raises(Unavailable, match="draining"):
                await case.runtime.update_items(ItemUpdate(withdraw=("i0",)))
            assert not drain.done()
        await drain
        assert all(task.done() and task.result().tier == "full" for task in (first, *waiting))

    with serving() as case:
        asyncio.run(main())
