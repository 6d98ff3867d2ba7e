"""An explanation shows what the language model's ranker lists, with figures that are the ranker's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import DataError, ModelError
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.explainer import Explainer
from recsys.ranking.explanation import CodeNode, Leaf
from recsys.ranking.loading import Models
from recsys.ranking.recommender import Answer, FittedRecommender, Request
from recsys.ranking.registry import GENERATIVE, ITEM_SCORED
from tests.ranking.fakes import NUM_ITEMS
from tests.ranking.trained import Trained

HISTORY = ("item 3", "item 9", "item 4", "item 5")
K = 5


def recommender(trained: Trained, *sources: str, max_history: int = 20) -> FittedRecommender:
    """Answers by the trained rankers of some sources."""
    rankers = {name: trained.rankers[name] for name in sources}
    ensemble = Ensemble(rankers, sources=sources, fusions={}, depth=K)
    return FittedRecommender(trained.context.items.catalog, ensemble, max_history=max_history, exclude_seen=True)


@pytest.fixture(scope="module")
def explainer(trained: Trained) -> Explainer:
    return Explainer(trained.context, recommender(trained, GENERATIVE))


def answer(trained: Trained, request: Request, source: str = GENERATIVE, **options: int) -> Answer:
    """Of one ranker alone."""
    return recommender(trained, source, **options).recommend([request])[0]


def ways(nodes: tuple[CodeNode, ...], above: tuple[CodeNode, ...] = ()) -> Iterator[tuple[tuple[CodeNode, ...], Leaf]]:
    """Every leaf with the nodes that lead to it."""
    for node in nodes:
        here = (*above, node)
        if node.leaf is not None:
            yield here, node.leaf
        yield from ways(node.children, here)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("history", [HISTORY, (), ("no such item", "item 7"), ("item 1",) * 6])
def test_leaves_are_the_rankers_list(
    trained: Trained, explainer: Explainer, history: tuple[str, ...], exclude_seen: bool
) -> None:
    request = Request(history, K, exclude_seen=exclude_seen)
    found, wanted = explainer.explain(request), answer(trained, request)
    assert [leaf.item_id for leaf in found.leaves] == [item.item_id for item in wanted.items]
    assert [leaf.title for leaf in found.leaves] == [item.title for item in wanted.items]
    assert [leaf.rank for leaf in found.leaves] == [*range(1, K + 1)]
    scores = [leaf.log_probability for leaf in found.leaves]
    assert scores == pytest.approx([item.score for item in wanted.items], abs=1e-5)
    assert found.notices == wanted.notices
    reached = {leaf: nodes for nodes, leaf in ways(found.roots)}
    assert [sum(n.log_probability for n in reached[leaf]) for leaf in found.leaves] == pytest.approx(scores, abs=1e-5)


def test_nodes_are_the_codes_of_their_items(trained: Trained, explainer: Explainer) -> None:
    ids = trained.context.items.semantic_ids
    assert ids is not None
    for nodes, leaf in ways(explainer.explain(Request(HISTORY, K)).roots):
        codes = ids.codes[trained.context.items.catalog.positions[leaf.item_id]]
        assert [node.token for node in nodes] == [f"<a_{codes[0]}>", f"<b_{codes[1]}>"]
    roots = explainer.explain(Request(HISTORY, NUM_ITEMS)).roots
    assert len({root.token for root in roots}) == len(roots), "one node a code"


def test_words_of_a_code_are_of_its_items(explainer: Explainer) -> None:
    """Codes of level 1 alternate between even and odd items, those of level 0 do not."""
    nodes = {n.token: n.words for way, _ in ways(explainer.explain(Request((), NUM_ITEMS)).roots) for n in way}
    for code, words in ((0, ("even",)), (1, ("odd",)), (2, ("even",)), (3, ("odd",))):
        assert nodes[f"<b_{code}>"] == words
        assert nodes.get(f"<a_{code}>", ()) == ()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_masses_sum_to_1(trained: Trained, explainer: Explainer, exclude_seen: bool) -> None:
    request = Request(HISTORY, NUM_ITEMS, exclude_seen=exclude_seen)
    found = explainer.explain(request)
    assert len(found.levels) == 2
    assert [sum(level) for level in found.levels] == pytest.approx([1, 1], abs=1e-5)
    listed = np.exp([item.score for item in answer(trained, request).items]).sum()
    assert found.levels[-1].kept == pytest.approx(listed, abs=1e-5)
    assert found.num_beams == NUM_ITEMS
    assert found.levels[0].no_item > 0, "level 0 has a code that no item has"
    everything = np.exp([item.score for item in answer(trained, replace(request, exclude_seen=False)).items]).sum()
    assert sum(level.filtered for level in found.levels) == pytest.approx(everything - listed, abs=1e-5)


@pytest.mark.parametrize(("history", "max_history"), [(HISTORY, 20), (("item 1", "nothing", *HISTORY), 3)])
def test_leaving_one_out_is_ranking_the_shortened_history(
    trained: Trained, history: tuple[str, ...], max_history: int
) -> None:
    context = replace(trained.context, max_history=max_history)
    explainer = Explainer(context, recommender(trained, GENERATIVE, max_history=max_history))
    request = Request(history, NUM_ITEMS, exclude_seen=False)
    found = explainer.explain(request)
    first = found.leaves[0]
    read = [position for position, item_id in enumerate(history) if item_id != "nothing"][-max_history:]
    assert [influence.position for influence in found.history] == read
    for influence in found.history:
        assert influence.item_id == history[influence.position]
        shortened = (*history[: influence.position], *history[influence.position + 1 :])
        others = answer(trained, replace(request, history=shortened), max_history=max_history).items
        score = next(item.score for item in others if item.item_id == first.item_id)
        assert influence.change == pytest.approx(score - first.log_probability, abs=1e-5)
    assert max(abs(influence.change) for influence in found.history) > 0.01


def test_leaves_have_their_rank_by_whole_items(trained: Trained, explainer: Explainer) -> None:
    request = Request(HISTORY, K)
    scored = answer(trained, replace(request, k=NUM_ITEMS), ITEM_SCORED).items
    ranks = {item.item_id: rank for rank, item in enumerate(scored, start=1)}
    for leaf in explainer.explain(request).leaves:
        assert leaf.item_rank == ranks[leaf.item_id]


def test_nothing_to_list_is_explained_by_a_notice(explainer: Explainer) -> None:
    found = explainer.explain(Request(tuple(f"item {n}" for n in range(NUM_ITEMS)), K))
    assert (found.roots, found.leaves, found.history) == ((), (), ())
    assert [notice.code for notice in found.notices] == ["all-seen"]
    assert found.levels[-1].kept == 0
    with pytest.raises(DataError, match="at least 1"):
        explainer.explain(Request(HISTORY, 0))


def test_without_a_language_model_there_is_nothing_to_explain(trained: Trained) -> None:
    folders = {name: folder for name, folder in trained.folders.items() if name not in ("finetune", "diffuse")}
    context = replace(trained.context, models=Models(folders, trained.context.items))
    with pytest.raises(ModelError, match=r"tokenize\.kind"):
        Explainer(context, recommender(trained, GENERATIVE))
