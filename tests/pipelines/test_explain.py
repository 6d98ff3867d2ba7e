"""What `recsys explain` prints of a finished run is what the run's language model lists."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from pipelines.explanation_view import share, show_explanation
from pipelines.recommend import load_context, load_recommender
from recsys.artifacts import RunDirectory
from recsys.data.histories import user_history
from recsys.decoding.trace import LevelMass
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.explainer import Explainer
from recsys.ranking.explanation import CodeNode, Explanation, Influence, Leaf
from recsys.ranking.recommender import FittedRecommender, Request
from recsys.ranking.registry import GENERATIVE, build_rankers
from recsys.tables import Interactions
from tests.pipelines.finished import configured

LEAF = re.compile(r"(\d+)\. (\S+) (.+)  log-probability (-[\d.]+) \((.+)%\), rank (\d+) by generative-item-scored$")
NODE = re.compile(r"(<[a-c]_\d+>)\s+(<?[\d.]+%)(?:  (.+))?$")


@pytest.fixture(scope="module")
def served(run: RunDirectory) -> FittedRecommender:
    return load_recommender(configured(), run)


@pytest.fixture(scope="module")
def generative(run: RunDirectory, served: FittedRecommender) -> Ensemble:
    """The language model's ranker alone, asked for as many items as among others."""
    rankers = build_rankers(load_context(configured(), run), [GENERATIVE])
    return Ensemble(rankers, sources=[GENERATIVE], fusions={}, depth=served.ensemble.depth(1))


def test_the_list_is_that_of_the_generative_ranker(
    run: RunDirectory, served: FittedRecommender, generative: Ensemble, recsys: Any
) -> None:
    history = (*served.catalog.item_ids[5:9], "no such item")
    answer = served.recommend([Request(history, 3)], ensemble=generative)[0]
    code, shown, err = recsys("explain", run.path, "--history", ",".join(history), "-k", 3)
    assert (code, err) == (0, f"{answer.notices[0].code}: {answer.notices[0].message}\n")
    leaves = sorted(
        (int(found[1]), found[2], found[3], found[4]) for found in map(LEAF.search, shown.splitlines()) if found
    )
    wanted = [(n, i.item_id, i.title, f"{i.score:.3f}") for n, i in enumerate(answer.items, start=1)]
    assert leaves == wanted
    assert len([line for line in shown.splitlines() if NODE.search(line)]) >= 5
    changes = re.findall(r"^\s*([+-]\d\.\d{3})\s+(\S+)", shown, flags=re.MULTILINE)
    assert {item_id for _, item_id in changes} == {*history} - {"no such item"}
    assert [abs(float(change)) for change, _ in changes] == sorted((abs(float(c)) for c, _ in changes), reverse=True)
    assert f"log-probability of {wanted[0][1]}" in shown


def test_a_user_of_the_run_is_explained_by_all_interactions(run: RunDirectory, recsys: Any) -> None:
    interactions = Interactions.load(run.verified("prepare") / "interactions.parquet")
    user = interactions.frame["user_id"][0]
    code, shown, err = recsys("explain", run.path, "--user", user)
    history = ",".join(user_history(interactions, user))
    assert (code, shown, err) == (0, recsys("explain", run.path, "--history", history)[1], "")
    assert len([line for line in shown.splitlines() if LEAF.search(line)]) == 5, "by default"
    code, shown, err = recsys("explain", run.path, "--user", "who")
    assert (code, shown, len(err.splitlines())) == (2, "", 1)


def test_nothing_to_list_still_shows_where_the_probability_went(
    run: RunDirectory, served: FittedRecommender, recsys: Any
) -> None:
    code, shown, err = recsys("explain", run.path, "--history", ",".join(served.catalog.item_ids))
    assert (code, err.split(":")[0]) == (0, "all-seen")
    assert "The list" not in shown
    assert "Where the probability went" in shown


def test_masses_and_log_probabilities_add_up(run: RunDirectory, served: FittedRecommender) -> None:
    explainer = Explainer(load_context(configured(), run), served)
    found = explainer.explain(Request(tuple(served.catalog.item_ids[:3]), 4))
    assert [sum(level) for level in found.levels] == pytest.approx([1] * 3, abs=1e-5)
    assert len(found.leaves) == 4

    def check(nodes: tuple[CodeNode, ...], before: float) -> None:
        for node in nodes:
            total = before + node.log_probability
            check(node.children, total)
            assert len(node.words) <= 3
            assert node.leaf is None or node.leaf.log_probability == pytest.approx(total, abs=1e-5)

    check(found.roots, 0)


@pytest.mark.parametrize("width", [60, 200])
def test_texts_of_a_catalogue_are_shown_as_they_are(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    leaf = Leaf(1, "[red]x[/red]", ":heart: [b]pan[/b]", math.log(0.25))
    node = CodeNode("<a_1>", ("[i]",), math.log(0.5), (CodeNode("<b_0>", (), math.log(0.5), leaf=leaf),))
    history = (Influence(0, "[red]", ":heart:", 0.5), Influence(1, "b", "B", -1.25))
    found = Explanation((node,), (LevelMass(0.5, 0.2, 0.2, 0.1, 0.0), LevelMass(0.25, 0, 0, 0.25, 0.5)), history, 7)
    show_explanation(found, Console(width=width, highlight=False))
    shown = capsys.readouterr().out
    for text in ("beam of 7", "<a_1>  50.0%  [i]", "[red]x[/red] :heart: [b]pan[/b]", "-1.250", ":heart:"):
        assert " ".join(text.split()) in " ".join(re.sub("[│├└─]", "", shown).split())
    assert "generative-item-scored" not in shown, "the model reads codes"
    rows = [line.split() for line in shown.splitlines()]
    assert ["a", "50.0%", "20.0%", "20.0%", "10.0%", "0.0%"] in rows
    assert rows.index(["-1.250", "b", "B"]) < rows.index(["+0.500", "[red]", ":heart:"])
    show_explanation(replace(found, roots=(), history=()), Console(width=width))
    assert "pan" not in capsys.readouterr().out


def test_a_small_share_is_not_none() -> None:
    shares = [0, 1e-9, 0.00045, 0.0051, 0.123, 1]
    assert [share(p) for p in shares] == ["0.0%", "<0.001%", "0.045%", "0.51%", "12.3%", "100.0%"]
