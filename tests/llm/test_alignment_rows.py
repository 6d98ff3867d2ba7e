"""The alignment tasks as rows: semantic ids and titles in the midst of text, read in both forms of an item."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from recsys.instructions.examples import Example
from recsys.instructions.templates import Template, load_templates, parse
from recsys.llm.backbone import encode_text
from recsys.llm.collation import IGNORED, Renderer, pad
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.item_loss import ItemLoss, ItemLossWeights
from recsys.llm.item_rows import branched, collate
from tests.llm.fakes import TITLES, item_table, language_model, semantic_ids
from tests.llm.naive import embedded, naive_written

MADE = language_model()
CODES = MADE.layout.token_ids(semantic_ids().codes).tolist()
READ = {"tokens": CODES, "sum": [[MADE.layout.item(item)] for item in range(6)]}
EXAMPLES = [
    Example("history_to_title", (1, 5), text=TITLES[2]),
    Example("history_to_description", (1, 5), text="a lid for soup"),
    Example("titles_to_id", item=2, titles=(TITLES[1], TITLES[5])),
    Example("intention", (1, 5), 2, "red pot"),
    Example("query_to_id", item=2, text="red pot"),
    Example("preference", (1, 5, 2), text="pots"),
]
WITH_TEMPLATES = [(e, n) for e in EXAMPLES for n in range(len(load_templates()[e.task]))]


def renderer(items: str, max_tokens: int = 512) -> Renderer:
    settings: dict[str, Any] = {"max_text_tokens": 8, "max_tokens": max_tokens, "one_position": items == "sum"}
    return Renderer(MADE.tokenizer, MADE.layout, semantic_ids(), **settings)


def written(parts: Any, example: Example, items: list[list[int]]) -> list[int]:
    """A prompt or an answer part by part."""
    tokens: list[int] = []
    for kind, value in parts:
        if kind == "text":
            tokens += encode_text(MADE.tokenizer, value)
        elif value == "text":
            tokens += encode_text(MADE.tokenizer, example.text)[:8]
        elif value == "item" and example.item is not None:
            tokens += items[example.item]
        for title in example.titles if value == "titles" else ():
            tokens += encode_text(MADE.tokenizer, "\n") + encode_text(MADE.tokenizer, title)[:8]
        for item in example.history if value == "history" else ():
            tokens += items[item]
    return tokens


@pytest.mark.parametrize("items", ["tokens", "sum"])
@pytest.mark.parametrize(("example", "number"), WITH_TEMPLATES, ids=lambda value: getattr(value, "task", str(value)))
def test_a_row_is_its_template_with_items_as_the_model_reads_and_writes_them(
    example: Example, number: int, items: str
) -> None:
    template = load_templates()[example.task][number]
    row = renderer(items).render(example, number)
    prompt, answer = (written(parts, example, READ[items]) for parts in (template.prompt, template.response))
    ending = [MADE.tokenizer.eos_token_id] if example.item is None else []
    start = [MADE.tokenizer.bos_token_id] if MADE.tokenizer.bos_token_id is not None else []
    assert row.tokens == [*start, *prompt, *answer, *ending]
    assert row.tokens[row.answer :] == [*answer, *ending]
    if example.item is not None:
        assert answer == READ[items][example.item]


def test_an_item_that_is_answered_is_the_whole_answer() -> None:
    """Branches that write an item in one pass have no text around it."""
    for templates in load_templates().values():
        for template in templates:
            fields = [value for kind, value in template.response if kind == "field"]
            assert "item" not in fields or template.response == (("field", "item"),)


def loss_of(items: str, rows: list[Any]) -> Any:
    if items == "tokens":
        return LanguageModelLoss(MADE.model, MADE.layout)(*pad(rows))
    loss = ItemLoss(MADE.model, MADE.layout, item_table(), ItemLossWeights(1.0))
    return loss(*collate([branched(row, renderer(items)) for row in rows]))


def naive(items: str, tokens: list[int], answer: int) -> tuple[float, float]:
    """Summed cross-entropy of codes, over their level, and of text, over the vocabulary; position by position."""
    model, layout = MADE._replace(items=item_table()), MADE.layout
    if tokens[answer] >= layout.size:
        return float(naive_written(model, tokens[:answer], CODES[tokens[answer] - layout.size]).sum()), 0.0
    states = MADE.model.base_model(inputs_embeds=embedded(model, tokens[:-1])[None]).last_hidden_state[0]
    head, sums = MADE.model.get_output_embeddings().weight, [0.0, 0.0]
    for state, token in zip(states[answer - 1 :], tokens[answer:], strict=True):
        level = (token - layout.base) // layout.num_codes if token >= layout.base else None
        first = 0 if level is None else layout.base + level * layout.num_codes
        rows = head[first : layout.size if level is None else first + layout.num_codes]
        sums[level is None] += float(F.cross_entropy(rows @ state, torch.tensor(token - first)))
    return sums[0], sums[1]


@pytest.mark.parametrize("items", ["tokens", "sum"])
def test_codes_are_scored_in_their_level_and_text_in_the_vocabulary(items: str) -> None:
    rows = [renderer(items).render(example, number) for number, example in enumerate(EXAMPLES)]
    with torch.no_grad():
        losses = loss_of(items, rows)
        found = getattr(losses, "written", losses)
        expected = [naive(items, row.tokens, row.answer) for row in rows]
    assert float(found.code) == pytest.approx(sum(code for code, _ in expected), rel=1e-4)
    assert float(found.text) == pytest.approx(sum(text for _, text in expected), rel=1e-4)
    assert found.num_code == 3 * 3
    assert found.num_text == sum(len(row.tokens) - row.answer for row in rows) - (9 if items == "tokens" else 3)


def test_an_item_within_a_written_text_is_written_as_codes() -> None:
    template = Template(parse("{history} then {text}:"), parse("take {item} now"))
    row = renderer("tokens")._row(EXAMPLES[3], template)
    with torch.no_grad():
        found = loss_of("tokens", [row])
        code, text = naive("tokens", row.tokens, row.answer)
    assert found.num_code == 3
    assert (float(found.code), float(found.text)) == (pytest.approx(code, rel=1e-4), pytest.approx(text, rel=1e-4))
    start = [token in CODES[2] for token in row.tokens[row.answer :]].index(True)
    assert row.tokens[row.answer :][start : start + 3] == CODES[2]


@pytest.mark.parametrize("items", ["tokens", "sum"])
def test_padding_of_rows_of_all_tasks_predicts_each_answer_once(items: str) -> None:
    rows = [renderer(items).render(example, 0) for example in EXAMPLES]
    batch = pad(rows) if items == "tokens" else collate([branched(row, renderer(items)) for row in rows])
    for example, row, targets in zip(EXAMPLES, rows, batch.targets.tolist(), strict=True):
        answer = row.tokens[row.answer :] if example.item is None else CODES[example.item]
        assert [t for t in targets if t != IGNORED] == answer


@pytest.mark.parametrize("items", ["tokens", "sum"])
def test_over_long_titles_lose_the_oldest_and_no_more_than_needed(items: str) -> None:
    titles = ["pot " * (1 + 5 * (n % 2)) for n in range(12)]  # of very different lengths
    examples = [Example("titles_to_id", item=2, titles=tuple(titles[n:])) for n in range(len(titles))]
    rows = [renderer(items, 10_000).render(example, 0).tokens for example in examples]
    for limit in range(len(rows[-1]), len(rows[0])):
        row = renderer(items, limit).render(examples[0], 0)
        assert row.tokens == next(tokens for tokens in rows if len(tokens) <= limit)
        assert row.tokens[row.answer :] == READ[items][2]


def test_texts_that_are_met_once_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.llm.collation._TEXTS_KEPT", 10)
    made = renderer("tokens")
    for number in range(50):
        made.render(Example("query_to_id", item=2, text=f"query {number}"), number)
    assert len(made._texts) <= 10
