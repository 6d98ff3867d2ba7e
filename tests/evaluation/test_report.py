"""The page is complete, self-contained, readable on a phone, and escapes texts from the data."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recsys.data.dataset import load_dataset
from recsys.data.policy import ServedPolicy
from recsys.errors import ArtifactError
from recsys.evaluation.examples import example_users
from recsys.evaluation.logs import training_curves
from recsys.evaluation.plots import STYLES, Curve, style_of
from recsys.evaluation.policies import MEANINGS, TITLES
from recsys.evaluation.report import Report, render_report
from recsys.tables import SemanticIds
from tests.evaluation import fakes

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The tags of a page, checked to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def full() -> str:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 2]])
    return render_report(
        Report(
            title="A <run>",
            evaluation=fakes.evaluation(),
            examples=example_users(
                fakes.rankings(),
                queries=fakes.queries(),
                catalog=fakes.catalog(),
                cutoff=2,
                count=4,
                generator=np.random.default_rng(0),
            ),
            curves={
                "language_model/validation_ndcg@10": Curve([10, 20], [0.011, 0.022]),
                "lora/validation_ndcg@10": Curve([10], [0.0333]),
                "sasrec/loss": Curve(list(range(50)), [1 / (1 + s) for s in range(50)]),
            },
            token_quality={"unique_ids": 1.0, "levels": [{"perplexity": 2.5, "prefixes": 3}], "category_purity": None},
            semantic_ids=SemanticIds(list("abcdef"), codes, 3),
            latent_quality={"active": 0.975},
            fusion={"fusion": {"method": "weighted-sum", "weights": {"generative": 0.35}}},
            data_card={
                "users": 4,
                "dropped": {"duplicates": 0},
                "files": [{"name": "<x>"}],
                "values": [1234567, 12345.6, 12.346, 0.12346, -1500.7, True, None],
            },
            configuration="seed: 0 # <script>\n",
            versions={"recsys": "0.1.0"},
            seconds={"prepare": 1.5, "finetune": 60.0},
            timings={"good": {"seconds": 0.5, "ms_per_user": 125.0}},
        )
    )


@pytest.fixture(scope="module")
def bare() -> str:
    """With what every report has, and nothing else."""
    return render_report(Report("Bare", fakes.evaluation()))


def test_every_section_is_there_and_reachable(full: str) -> None:
    page = Page(full)
    sections = [str(a["id"]) for tag, a in page.tags if tag == "section"]
    assert sections == [
        *("systems", "significance", "slices", "beyond", "tokens", "training"),
        *("fusion", "examples", "speed", "data", "configuration"),
    ]
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in sections]
    assert page.open == []


def test_sections_without_input_are_left_out(bare: str) -> None:
    page = Page(bare)
    assert page.open == []
    assert page.ids() == ["systems", "significance", "slices", "beyond"]
    assert [a["href"] for tag, a in page.tags if tag == "a"] == [f"#{name}" for name in page.ids()]


def test_the_data_are_shown_as_the_import_found_them(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 9},<i>{n % 7}</i>,{1_700_000_000 + 86_400 * (n // 9)}\n" for n in range(63))
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id,timestamp\n{rows}u,,5\n")
    card = load_dataset(tmp_path, max_bad_share=0.1).card
    page = render_report(Report("run", fakes.evaluation(), data_card=card))
    section = page[page.index('<section id="data">') :]
    assert "<i>" not in section
    for text in (
        "there is no table of items, so that items have neither titles nor texts",
        "put items.csv (item_id, title, ...) beside the interactions",
        "<th>item_id</th><td>item id</td><td>text</td>",
        "&lt;i&gt;0&lt;/i&gt;",
        "<dd>2023-11-14 22:13:20, 2023-11-20 22:13:20</dd>",
        'title="2023-11-16: 9"',
        "Rows by day, 2023-11-14 to 2023-11-20, at most 9.",
        "<th>4 to 7</th><td>9<",
        "63 of 63 rows, 9 of 9 users, 7 of 7 items",
        "Rejected: row 65 of interactions.csv, missing item id: u,5",
        "<summary>Every count</summary>",
    ):
        assert text in section
    assert "profile" not in section
    assert Page(page).open == []


def test_nothing_is_fetched(full: str) -> None:
    urls = [a[key] for _, a in Page(full).tags for key in ("src", "href") if key in a]
    assert all(str(url).startswith(("data:", "#")) for url in urls)
    assert not re.search(r"https?://|@import|url\(|<script", full)


def test_texts_of_the_data_are_escaped(full: str) -> None:
    assert "Pan &lt;b&gt;bold&lt;/b&gt;" in full
    assert "<b>" not in full
    assert "A &lt;run&gt;" in full
    assert "# &lt;script&gt;" in full


def test_a_phone_can_read_it(full: str) -> None:
    page = Page(full)
    viewport = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    # A table that is wider than a phone scrolls by itself, never the page.
    assert full.count("<table") == full.count('<div class="scroll"><table')
    assert "prefers-color-scheme: dark" in full


def test_pictures_are_wellformed_and_follow_the_scheme(full: str) -> None:
    sources = [str(a["src"]) for tag, a in Page(full).tags if tag == "img"]
    assert len(sources) == 2 * (3 + 3 + 1) + 1 + 3  # by list length, slices, lift of both; token usage, curves
    for source in sources:
        picture = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
        assert xml.etree.ElementTree.fromstring(picture).tag.endswith("}svg")
        assert "prefers-color-scheme:dark" in picture
        assert "var(--ink)" in picture


def test_figures_of_the_evaluation_are_shown(full: str) -> None:
    good = fakes.evaluation().headline.systems["good"].metrics["ndcg@2"]
    assert f"{good.value:.4f}" in full
    assert f"{good.low:.4f}–{good.high:.4f}" in full
    assert "0.0333" in full  # validation after LoRA


def test_names_are_written_out(full: str) -> None:
    assert "<th>system</th><th>HR@2</th><th>NDCG@2</th><th>MRR@2</th>" in full
    assert "<dt>unique ids</dt>" in full
    assert "sasrec: loss" in full
    assert "<th>language model</th>" in full  # its validation


def test_bars_of_stages_are_as_long_as_their_share_of_the_slowest(full: str) -> None:
    speed = full.partition('id="speed"')[2]
    assert re.findall(r"<th>(prepare|finetune)</th><td><span[^>]*width: ([\d.]+)%", speed) == [
        ("prepare", "2.5"),
        ("finetune", "100.0"),
    ]


def test_many_systems_are_compared_in_a_matrix(full: str) -> None:
    assert "matrix" not in re.sub(r"<style>.*?</style>", "", full, flags=re.DOTALL)
    evaluation = fakes.evaluation(more=3)
    page = render_report(Report("Many", evaluation))
    assert Page(page).open == []
    tables = re.findall(r'<table class="matrix wide">.*?</table>', page, flags=re.DOTALL)
    assert len(tables) == 2 * 2  # of both policies
    found = next(
        c for c in evaluation.headline.comparisons if (c.metric, c.better, c.worse) == ("ndcg@2", "good", "wild")
    )
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in tables[1].split("<tr>")[2:]]
    assert [len(row) for row in cells] == [6] * 6
    names = list(evaluation.headline.systems)
    good, wild = names.index("good"), names.index("wild")
    assert cells[good][wild].startswith(f"{found.difference.value:+.4f}")
    assert cells[wild][good].startswith(f"{-found.difference.value:+.4f}")
    assert cells[good][good] == ""


def test_differences_are_marked_by_their_corrected_p_value() -> None:
    evaluation = fakes.evaluation()
    for p_holm, shown in ((0.049, "good &gt; popular"), (0.051, "good and popular")):
        found = evaluation.headline
        comparisons = [replace(c, better="good", worse="popular", p_holm=p_holm) for c in found.comparisons]
        marked = replace(evaluation, policies={"seen-kept": replace(found, comparisons=comparisons)})
        assert render_report(Report("Marked", marked)).count(shown) == len(comparisons)


def test_latents_and_fusion_are_shown(full: str) -> None:
    assert "0.975" in full
    assert "weighted-sum" in full


def test_the_same_input_gives_the_same_page(bare: str) -> None:
    assert render_report(Report("Bare", fakes.evaluation())) == bare


def test_curves_are_ordered_and_the_last_value_of_a_step_counts(tmp_path: Path) -> None:
    log = tmp_path / "training_log.jsonl"
    lines = [{"step": 2, "a/loss": 3.0}, {"step": 1, "a/loss": 4.0, "a/ndcg": 0.1}, {"step": 2, "a/loss": 2.0}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_curves([tmp_path / "absent.jsonl", log]) == {
        "a/loss": Curve([1, 2], [4.0, 2.0]),
        "a/ndcg": Curve([1], [0.1]),
    }


@pytest.mark.parametrize("line", ["{", "[1]", '{"a/loss": 1}'])
def test_a_broken_log_is_refused_by_line(tmp_path: Path, line: str) -> None:
    log = tmp_path / "training_log.jsonl"
    log.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ArtifactError, match=r"training_log\.jsonl, line 2"):
        training_curves([log])


def test_figures_have_digits_by_their_size(full: str) -> None:
    assert "1,234,567, 12,346, 12.35, 0.1235, -1,501, yes, –" in full


def test_both_policies_are_explained_and_the_served_one_is_marked(bare: str) -> None:
    served = ServedPolicy("seen-left-out", "auto", 1, 241, 0.05)
    evaluation = fakes.evaluation()
    page = render_report(Report("Served", evaluation, served=served))
    systems = page.partition('id="systems"')[2].partition("</section>")[0]
    first, second = (re.findall(r"<h3>(.*?)</h3>", systems)[number] for number in (0, 1))
    assert (first, second) == ("Seen items kept", 'Seen items left out <span class="tag">served</span>')
    assert "Served: seen-left-out, as 1 of 241 training interactions (0.4 %) repeat an earlier item" in systems
    for meaning in MEANINGS.values():
        assert systems.count(meaning) == 1
    tables = systems.split("<table>")
    for policy, table in zip(("seen-kept", "seen-left-out"), tables[1:], strict=False):
        assert f"{evaluation.policies[policy].systems['good'].metrics['ndcg@2'].value:.4f}" in table
    kept, left_out = (evaluation.policies[name].systems["good"].metrics["ndcg@2"].value for name in TITLES)
    assert kept != left_out
    assert re.search(rf"Best NDCG@2, seen items kept: (good|popular), {kept:.4f}\.", page)  # they are equal
    assert 'class="tag"' not in bare


def test_the_policy_that_is_no_headline_is_shown_on_demand(bare: str) -> None:
    evaluation = fakes.evaluation()
    opened = re.findall(r'<details class="other"><summary>(.*?)</summary>', bare)
    assert opened == ["Seen items left out"] * 4  # plots, significance, slices, beyond accuracy
    alone = replace(evaluation, policies={"seen-left-out": evaluation.policies["seen-left-out"]})
    page = render_report(Report("One", alone))
    assert Page(page).open == []
    assert ('<details class="other">' in page, page.count("Seen items kept")) == (False, 0)


def test_no_two_of_many_systems_look_alike() -> None:
    names = [f"system {number}" for number in range(30)]
    looks = [(style.color, style.marker) for style in style_of(names).values()]
    assert len(set(looks)) == 30
    assert list(style_of(names).values())[: len(STYLES)] == list(STYLES)
