"""The engine answers in item ids, respects filters at every tier, and applies item changes at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.ranking.config import FusionConfig
from recsys.ranking.loading import Models
from recsys.retrieval.index import ItemIndex
from recsys.tokenization.tokenizer import fit_rqvae
from serving.bundle.loading import LoadedBundle
from serving.engine.engine import BundleEngine
from serving.engine.interface import NewItem, Request, Retrieval, Tier
from tests.ranking.fakes import NUM_ITEMS
from tests.serving.trained import TOKENIZE, jointly_trained, with_own_index

SOURCES = FusionConfig().sources
EVERY = [f"item {i}" for i in range(NUM_ITEMS)]


@pytest.fixture(scope="module")
def engine(parts: LoadedBundle) -> BundleEngine:
    """Not changed by any test."""
    return BundleEngine(parts)


@pytest.fixture
def live(parts: LoadedBundle) -> BundleEngine:
    """With an index of its own, to be changed."""
    return BundleEngine(parts._replace(state=with_own_index(parts.state)))


@pytest.fixture
def discrete(parts: LoadedBundle) -> BundleEngine:
    """A bundle of the discrete route alone."""
    new_items = replace(parts.new_items, continuous=None)
    points = parts.new_items.discrete.quantized(parts.state.semantic_ids.codes)
    items = replace(parts.state.items, latents=points, item_index=ItemIndex.build(points))
    folders = {"finetune": parts.state.context.folders["finetune"]}
    context = replace(parts.state.context, folders=folders, items=items, models=Models(folders, items))
    state = replace(parts.state, context=context, fusion=None)
    return BundleEngine(LoadedBundle(state, new_items, replace(parts.info, routes=("discrete",))))


def walk(start: int, length: int = 4) -> tuple[str, ...]:
    return tuple(f"item {(start + step) % NUM_ITEMS}" for step in range(length))


def join_compaction() -> None:
    for thread in threading.enumerate():
        if thread.name == "recsys-compaction":
            thread.join()


def ids(engine: BundleEngine, request: Request, tier: Tier = "full") -> list[str]:
    return [item.item_id for item in engine.recommend([request], tier)[0].items]


@pytest.mark.parametrize("tier", ["full", "narrow"])
def test_the_next_item_comes_first_with_its_sources_and_tokens(engine: BundleEngine, tier: Tier) -> None:
    hits = 0
    for start in range(NUM_ITEMS):
        answer = engine.recommend([Request(walk(start), k=3)], tier)[0]
        first = answer.items[0]
        hit = first.item_id == walk(start, 5)[-1]
        hits += hit
        if hit:
            assert first.source_scores.keys() == {*SOURCES}
        assert first.title == first.item_id.replace("item", "Thing")
        assert [token[:3] for token in first.tokens] == ["<a_", "<b_"]
        assert all(a.score >= b.score for a, b in pairwise(answer.items))
        assert answer.seconds.keys() == {*SOURCES, "fused"}
    assert hits >= 10


def test_a_bundle_offers_its_tiers(engine: BundleEngine, discrete: BundleEngine) -> None:
    assert engine.tiers == ("full", "narrow", "no-decoding", "popularity")
    assert discrete.tiers == ("full", "narrow", "no-decoding", "popularity"), "whole items are scored without decoding"
    for tier in discrete.tiers:
        assert len(ids(discrete, Request(walk(0), k=5), tier)) == 5


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, 6), st.integers(1, 60), st.sampled_from(["", "even"])),
        min_size=1,
        max_size=6,
    ),
    tier=st.sampled_from(["full", "narrow", "no-decoding", "popularity"]),
)
def test_a_request_gets_among_others_what_it_gets_alone(
    engine: BundleEngine, rows: list[tuple[int, int, int, str]], tier: Tier
) -> None:
    requests = [
        Request(walk(start, length), k=k, where=(("category", (value,)),) if value else ())
        for start, length, k, value in rows
    ]
    together = engine.recommend(requests, tier)
    for request, answer in zip(requests, together, strict=True):
        alone = {item.item_id: item for item in engine.recommend([request], tier)[0].items}
        common = [item for item in answer.items if item.item_id in alone]
        # Items that are nearly tied may change ranks with the last bits of a batch; what is reported of them may not.
        assert len(answer.items) == len(alone) <= len(common) + 1
        for item in common:
            assert item.source_scores == pytest.approx(alone[item.item_id].source_scores, abs=1e-3)
            assert item.score == pytest.approx(alone[item.item_id].score, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(
    history=st.lists(st.sampled_from([*EVERY, "nothing"]), max_size=8),
    exclude=st.lists(st.sampled_from([*EVERY, "nobody"]), max_size=8),
    seen=st.sampled_from([None, True, False]),
    values=st.sampled_from([(), ("even",), ("odd",), ("even", "odd"), ("neither",)]),
    tier=st.sampled_from(["full", "narrow", "no-decoding", "popularity"]),
    k=st.integers(1, 15),
)
def test_only_what_is_permitted_is_recommended(
    engine: BundleEngine,
    history: list[str],
    exclude: list[str],
    seen: bool | None,
    values: tuple[str, ...],
    tier: Tier,
    k: int,
) -> None:
    where = (("category", values),) if values else ()
    request = Request(tuple(history), k, exclude=tuple(exclude), exclude_seen=seen, where=where)
    answer = engine.recommend([request], tier)[0]
    got = [item.item_id for item in answer.items]
    allowed = {i for i in EVERY if not values or ("even", "odd")[int(i.split()[1]) % 2] in values}
    allowed -= set(exclude)
    if seen is not False:
        allowed -= set(history)
    assert len(set(got)) == len(got) <= k
    assert set(got) <= allowed
    notices = {notice.code: notice for notice in answer.notices}
    unknown = history.count("nothing")
    assert (notices["unknown-items"].counts["unknown"] if unknown else 0) == unknown
    assert ("unknown-items" in notices, "empty-history" in notices) == (unknown > 0, unknown == len(history))
    short = notices.keys() & {"filter-empty", "all-seen", "fewer-than-asked"}
    assert len(short) == (len(got) < k)
    if short:
        counts = notices[short.pop()].counts
        assert (counts["asked"], counts["given"], counts["catalogue"]) == (k, len(got), NUM_ITEMS)
        assert counts["unranked"] == len(allowed) - len(got)
        assert NUM_ITEMS - len(allowed) == sum(counts[why] for why in ("withdrawn", "filtered", "seen", "excluded"))
    if tier == "popularity":
        assert len(got) == min(k, len(allowed))


def test_a_row_with_terms_is_served_with_what_it_reads_and_without_decoding_only_where_it_can(
    parts: LoadedBundle,
) -> None:
    def tiers(*sources: str) -> dict[Tier, list[str]]:
        context = parts.state.context
        config = context.config.model_copy(update={"fusion": FusionConfig(sources=sources)})
        state = replace(parts.state, context=replace(context, config=config), fusion=None)
        return {tier: list(ensemble.rankers) for tier, ensemble in state.tiers.items()}

    both = tiers("generative-with-terms", "sasrec-with-terms")
    assert both["full"] == ["sasrec", "generative", "sasrec-with-terms", "generative-with-terms"]
    assert both["no-decoding"] == ["sasrec", "sasrec-with-terms"]
    assert "no-decoding" not in tiers("generative-with-terms")
    assert not [name for names in tiers(*SOURCES).values() for name in names if name.endswith("-with-terms")]


def test_the_same_user_gets_the_same_list(engine: BundleEngine) -> None:
    request = Request(walk(2), k=5, user="u")
    assert ids(engine, request) == ids(engine, request)


def test_impossible_requests_are_refused_before_they_wait(engine: BundleEngine) -> None:
    with pytest.raises(DataError, match="k=0"):
        engine.check(Request(k=0))
    with pytest.raises(DataError, match=r"'colour' cannot be filtered by; filter columns are: category"):
        engine.check(Request(where=(("colour", ("red",)),)))
    with pytest.raises(DataError, match="'nothing' is not in the catalogue"):
        engine.similar("nothing", 3)


def test_retrieval_alone_agrees_with_plain_distances(engine: BundleEngine, parts: LoadedBundle) -> None:
    latents = parts.state.latents
    query = latents[3] + np.float32(0.01)
    plain = np.square(latents - query).sum(axis=1)
    found = engine.retrieve(Retrieval(k=4, vector=tuple(query.tolist())))
    assert [item.item_id for item in found] == [EVERY[i] for i in np.argsort(plain, kind="stable")[:4]]
    assert [-item.score for item in found] == pytest.approx(np.sort(plain)[:4].tolist(), rel=1e-4)
    near = engine.similar("item 3", 4)
    assert "item 3" not in [item.item_id for item in near]
    assert engine.retrieve(Retrieval(k=4, item_id="item 3")) == near
    dense = engine.retrieve(Retrieval(k=4, history=walk(1)))
    assert dense[0].item_id == walk(1, 5)[-1]
    assert all(item.source_scores == {"diffusion": item.score} for item in dense)
    served = engine.recommend([Request(walk(1), k=4)], "no-decoding")[0].items
    assert {item.item_id: item.source_scores["diffusion"] for item in served}[dense[0].item_id] == dense[0].score
    even = engine.similar("item 3", 4, (("category", ("even",)),))
    assert all(int(item.item_id.split()[1]) % 2 == 0 for item in even)


@pytest.mark.parametrize("vector", [(float("nan"),) * 8, (1.0,) * 3, (float("inf"),) * 8])
def test_vectors_that_cannot_be_searched_are_refused(engine: BundleEngine, vector: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="queries"):
        engine.retrieve(Retrieval(vector=vector))


def test_exactly_one_thing_is_retrieved_by(engine: BundleEngine, discrete: BundleEngine) -> None:
    with pytest.raises(DataError, match="exactly one"):
        engine.retrieve(Retrieval())
    with pytest.raises(DataError, match="exactly one"):
        engine.retrieve(Retrieval(history=(), item_id="item 1"))
    with pytest.raises(DataError, match="no diffusion ranking"):
        discrete.retrieve(Retrieval(history=walk(0)))


def test_an_added_item_is_found_everywhere_at_once(live: BundleEngine) -> None:
    new = NewItem("new", {"title": "Thing 99\u202e &lt;b&gt; R&amp;B <i>½</i>", "category": "even"})
    live.add([new])
    assert live.info.items == NUM_ITEMS + 1
    found = live.item("new")
    assert (found.title, found.interactions, found.withdrawn) == ("Thing 99 <b> R&B ½", 0, False)
    assert len(found.tokens) == 2
    assert [item.item_id for item in live.search("thing 99", 5)] == ["new"]
    for tier in live.tiers:
        found = ids(live, Request(k=50, exclude_seen=False), tier)
        assert tier in ("narrow", "no-decoding") or "new" in found
    assert ids(live, Request(k=20, where=(("category", ("even",)),)), "popularity")[-1] == "new"
    assert "new" in [item.item_id for item in live.similar("item 1", 50)]
    assert ids(live, Request(("new",), k=3))


def test_an_added_item_is_taken_to_behave_as_the_one_it_reads_like(live: BundleEngine) -> None:
    """It comes beside its twin, and SASRec and the diffusion ranking score both alike."""
    live.add([NewItem("twin", {"title": "Thing 10", "category": "even"})])
    answer = live.recommend([Request(walk(6), k=NUM_ITEMS + 1)], "full")[0]
    scores = {item.item_id: item.source_scores for item in answer.items}
    assert scores["twin"]["sasrec"] == pytest.approx(scores["item 10"]["sasrec"])
    assert scores["twin"]["diffusion"] == pytest.approx(scores["item 10"]["diffusion"], rel=1e-3)
    assert {"twin", "item 10"} == {item.item_id for item in answer.items[:2]}


def test_adding_changes_no_token_of_another_item(live: BundleEngine) -> None:
    before = {item_id: live.item(item_id).tokens for item_id in EVERY}
    live.add([NewItem(f"new {i}", {"title": "Thing 3", "category": "odd"}) for i in range(10)])
    assert {item_id: live.item(item_id).tokens for item_id in EVERY} == before
    assert len({live.item(f"new {i}").tokens for i in range(10)} | set(before.values())) == NUM_ITEMS + 10


def test_a_withdrawn_item_is_recommended_no_more_but_still_read(live: BundleEngine) -> None:
    target = walk(0, 5)[-1]
    before = ids(live, Request(walk(0), k=3))
    assert target in before
    live.withdraw([target])
    assert live.info.items == NUM_ITEMS - 1
    assert live.item(target).withdrawn
    for tier in live.tiers:
        assert target not in ids(live, Request(walk(0), k=50, exclude_seen=False), tier)
    assert target not in [item.item_id for item in live.similar("item 1", 50)]
    assert target not in [item.item_id for item in live.search("thing", 50)]
    first = [item.item_id for item in live.search("thing", 3)]
    live.withdraw(first)
    assert len({item.item_id for item in live.search("thing", 3)} - {*first, target}) == 3, (
        "the limit is of visible items"
    )
    live.restore(first)
    assert live.recommend([Request((target,), k=3)], "full")[0].notices == (), "a withdrawn item is known"
    short = live.recommend([Request((target,), k=50)], "full")[0].notices[-1]
    assert (short.code, short.counts["withdrawn"]) == ("fewer-than-asked", 1)
    with pytest.raises(DataError, match="withdrawn already"):
        live.withdraw([target])
    live.restore([target])
    assert ids(live, Request(walk(0), k=3)) == before
    assert target in [item.item_id for item in live.similar("item 1", 50)]
    with pytest.raises(DataError, match="is not withdrawn"):
        live.restore([target])


def test_live_additions_are_compacted_in_the_background(live: BundleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.engine.MIN_CHANGES", 4)
    index = live._state.item_index
    twin = {"title": "Thing 10", "category": "even"}
    live.add([NewItem(f"new {i}", twin) for i in range(3)])
    join_compaction()
    assert index.num_changes == 3, "few changes wait for more"
    before = live.similar("item 1", 50)
    live.withdraw(["item 3"])
    join_compaction()
    assert index.num_changes == 0
    assert live.similar("item 1", 50).items == tuple(item for item in before if item.item_id != "item 3")
    live.restore(["item 3"])
    assert {item.item_id for item in live.similar("item 1", 50)} == {item.item_id for item in before}


def test_a_compaction_that_fails_is_logged_and_tried_again(
    live: BundleEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: ItemIndex) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr("serving.engine.engine.MIN_CHANGES", 1)
    with monkeypatch.context() as broken:
        broken.setattr(ItemIndex, "compact", fail)
        live.withdraw(["item 3", "item 5"])
        join_compaction()
    assert "compaction of the item index failed: MemoryError" in caplog.text
    live.withdraw(["item 4"])
    join_compaction()
    assert live._state.item_index.num_changes == 0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([NewItem("item 1", {})], "in the catalogue already"),
        ([NewItem("a", {}), NewItem("a", {})], "is repeated"),
        ([NewItem("a", {"colour": "red"})], "'colour' is no text column"),
        ([NewItem("a", {}, (1.0, 2.0))], "got 2 numbers, this bundle"),
        ([NewItem("a", {}, (1.0,) * 5)], "got 5 numbers, this bundle"),
        ([NewItem("a", {}, (float("nan"),) * 11)], "NaN or infinite"),
        ([NewItem(f"n{i}", {}) for i in range(30)], "do not fit"),
    ],
)
def test_items_that_cannot_be_added_change_nothing(live: BundleEngine, items: list[NewItem], message: str) -> None:
    with pytest.raises(DataError, match=message):
        live.add(items)
    assert live.info.items == NUM_ITEMS
    assert len(ids(live, Request(k=50), "popularity")) == NUM_ITEMS


def test_without_an_encoder_a_new_item_needs_a_vector(parts: LoadedBundle) -> None:
    new_items = replace(parts.new_items, encoder=None)
    engine = BundleEngine(parts._replace(new_items=new_items))
    with pytest.raises(DataError, match="'new' has no vector"):
        engine.add([NewItem("new", {"title": "Thing 99"})])


def test_an_added_item_is_not_popular_for_reading_like_one_that_is(live: BundleEngine) -> None:
    live.add([NewItem("twin", {"title": "Thing 10", "category": "even"})])
    answer = live.recommend([Request((), k=NUM_ITEMS + 1)], "full")[0]
    scores = {item.item_id: item.source_scores for item in answer.items}
    assert scores["twin"]["sasrec"] == 0 < scores["item 10"]["sasrec"]


def test_without_collaborative_vectors_new_items_have_no_proxy(discrete: BundleEngine, parts: LoadedBundle) -> None:
    texts = parts.new_items.encoder.encode(["Thing 10", "Thing 11"])  # type: ignore[union-attr]
    tokenizer = fit_rqvae(texts, TOKENIZE.model_copy(update={"collaborative_weight": 0}), seed=0)
    alone = replace(parts.new_items, discrete=tokenizer, continuous=None, neighbours=None)
    catalog, codes = parts.state.items.catalog, parts.state.semantic_ids.codes
    made = alone.tokens([NewItem("new", {"title": "Thing 10", "category": "odd"})], catalog, codes)
    assert made.proxies.tolist() == [-1]
    assert made.codes.shape == (1, 2)


def test_a_discrete_bundle_takes_new_items_too(discrete: BundleEngine) -> None:
    discrete.add([NewItem("new", {"title": "Thing 5", "category": "odd"})])
    assert "new" in ids(discrete, Request(k=50), "full")


@pytest.mark.slow
def test_added_items_are_read_by_prompts_of_latents_too(parts: LoadedBundle, models: Path, tmp_path: Path) -> None:
    for titles in (True, False):
        engine = BundleEngine(jointly_trained(parts, models, tmp_path / str(titles), titles=titles))
        engine.add([NewItem("new", {"title": "Thing 9", "category": "odd"})])
        for tier in engine.tiers:
            assert len(ids(engine, Request(("item 1", "new"), k=3), tier)) == 3
