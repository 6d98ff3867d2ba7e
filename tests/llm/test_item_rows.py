"""Batches made with arrays are equal, bit for bit, to those put together row by row and token by token."""

from typing import Any

import numpy as np
import pytest
import torch

from recsys.instructions.examples import Example
from recsys.llm.attention import PADDING
from recsys.llm.collation import IGNORED, Renderer, Row, pad
from recsys.llm.item_rows import ItemBatch, branched, collate
from recsys.llm.items import ages
from tests.llm.fakes import TITLES, item_table, language_model, semantic_ids

Columns = dict[str, list[Any]]


def rendered(*, items: bool, weighted: bool) -> tuple[Renderer, list[Row]]:
    model = language_model()
    renderer = (model._replace(items=item_table()) if items else model).renderer(semantic_ids())
    generator = np.random.default_rng(0)
    examples = []
    for number, length in enumerate([1, 4, 50, 7, 2, 1, 12]):
        weights = tuple(generator.choice([0.0, 0.3, 1.0], size=length).tolist()) if weighted and number % 3 else ()
        examples.append(
            Example("sequential", history=tuple(generator.integers(6, size=length).tolist()), weights=weights)
        )
        examples.append(Example("item_to_id", item=number % 6, text=TITLES[number % 6]))
        examples.append(Example("id_to_item", item=number % 6, text=TITLES[number % 6]))
    return renderer, [renderer.render(example, number) for number, example in enumerate(examples)]


def row_by_row(row: Row, renderer: Renderer) -> Columns:
    """Everything about one row, as lists."""
    first, before, answer = renderer.first_item, row.answer - 1, row.tokens[row.answer :]
    trunk = row.tokens[:-1]
    assert first is not None
    made: Columns = {"tokens": list(trunk), "positions": list(range(len(trunk))), "branch": [0] * len(trunk)}
    made["reach"] = list(range(1, len(trunk) + 1))
    made |= {name: [] for name in ("columns", "items", "branches", "factors")}
    if answer[0] < first:
        return made | {"targets": [IGNORED] * before + answer, "weights": [1.0] * len(trunk)}
    own = row.weights or [1.0] * len(answer)
    made["targets"] = [IGNORED] * before + [renderer.code_tokens[token - first][0] for token in answer]
    made["weights"] = [float(row.weights is None)] * before + own
    for number, token in enumerate(answer):
        code = renderer.code_tokens[token - first]
        made["columns"].append(before + number)
        made["items"].append(token - first)
        made["branches"].append(len(made["tokens"]))
        made["factors"].append(own[number])
        for level in range(len(code) - 1):
            made["tokens"].append(code[level])
            made["targets"].append(code[level + 1])
            made["weights"].append(own[number])
            made["positions"].append(before + 1 + number + level)
            made["reach"].append(before + 1 + number)
            made["branch"].append(number + 1)
    return made


def filled(rows: list[Columns], name: str, value: int = 0) -> torch.Tensor:
    width = max(len(row[name]) for row in rows)
    return torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])


def reference(rows: list[Columns], *, weighted: bool) -> ItemBatch:
    places = [(r, k) for r, row in enumerate(rows) for k in range(len(row["items"])) if row["factors"][k] > 0]
    pairs = []
    for number, (r, k) in enumerate(places):
        items = rows[r]["items"]
        last = {item: place for place, item in enumerate(items[:k])}
        pairs += [(number, item, k - place) for place, item in sorted((place, item) for item, place in last.items())]
    targets, weights = filled(rows, "targets", IGNORED), filled(rows, "weights").float()
    by, seen, distances = (torch.tensor([pair[part] for pair in pairs]) for part in range(3))
    return ItemBatch(
        filled(rows, "tokens"),
        torch.where(weights > 0, targets, IGNORED) if weighted else targets,
        weights if weighted else None,
        filled(rows, "positions"),
        filled(rows, "reach"),
        filled(rows, "branch", PADDING),
        torch.tensor([r for r, _ in places]),
        *(torch.tensor([rows[r][name][k] for r, k in places]) for name in ("columns", "items", "branches")),
        torch.tensor([rows[r]["factors"][k] for r, k in places]) if weighted else None,
        by,
        seen,
        ages(distances),
    )


def assert_same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or (mine.dtype == other.dtype and torch.equal(mine, other))


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_with_branches(weighted: bool) -> None:
    renderer, rows = rendered(items=True, weighted=weighted)
    made = [row_by_row(row, renderer) for row in rows]
    found = [branched(row, renderer) for row in rows]
    assert [row.size for row in found] == [len(row["tokens"]) for row in made]
    assert_same(collate(found), reference(made, weighted=weighted))
    texts = [number for number in range(len(rows)) if number % 3 == 2]
    only = collate([found[number] for number in texts])
    assert only.weights is None
    assert [len(part) for part in only[6:] if part is not None] == [0] * 7
    assert torch.equal(only.tokens, filled([made[number] for number in texts], "tokens"))


@pytest.mark.parametrize("weighted", [False, True])
def test_plain_rows(weighted: bool) -> None:
    _, rows = rendered(items=False, weighted=weighted)
    made: list[Columns] = []
    for row in rows:
        own = row.weights or [1.0] * (len(row.tokens) - row.answer)
        before = [0.0] * (row.answer - 1)
        asked = [token if weight else IGNORED for token, weight in zip(row.tokens[row.answer :], own, strict=True)]
        made.append({"tokens": row.tokens[:-1], "targets": [IGNORED] * len(before) + asked, "weights": before + own})
    weights = filled(made, "weights").float() if weighted else None
    assert_same(pad(rows), (filled(made, "tokens"), filled(made, "targets", IGNORED), weights))
