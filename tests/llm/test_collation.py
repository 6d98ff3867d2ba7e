"""Rows are rendered, cut and padded so that the answer stays whole and nothing else is asked."""

import numpy as np
import pytest

from recsys.instructions.examples import Example
from recsys.llm.collation import IGNORED, Renderer, Row, buckets, epoch_batches, pad
from tests.llm.fakes import TITLES, language_model, renderer, semantic_ids

MADE = language_model()


def _codes(tokens: list[int]) -> list[int]:
    return [t - MADE.layout.base for t in tokens if t >= MADE.layout.base]


def test_a_sequential_prompt_ends_with_the_newest_items_codes() -> None:
    prompt = renderer(MADE).prompt([1, 5])
    ids = semantic_ids().codes[[1, 5]] + np.array([0, 4, 8])
    assert _codes(prompt) == ids.reshape(-1).tolist()
    assert prompt[-6:] == (ids.reshape(-1) + MADE.layout.base).tolist(), "nothing may follow the last code"


def test_training_and_inference_see_the_same_prompt() -> None:
    row = renderer(MADE).render(Example("sequential", history=(1, 5, 2)), 0)
    assert row.tokens[:-3] == renderer(MADE).prompt([1, 5])


def test_all_positions_of_a_history_are_answers() -> None:
    row = renderer(MADE).render(Example("sequential", history=(0, 1, 2)), 3)
    batch = pad([row])
    assert int((batch.targets != IGNORED).sum()) == 9


@pytest.mark.parametrize("limit", [16, 20, 31])
def test_over_long_histories_lose_their_oldest_items_never_the_answer(limit: int) -> None:
    short = Renderer(MADE.tokenizer, MADE.layout, semantic_ids(), max_text_tokens=8, max_tokens=limit)
    whole = renderer(MADE).prompt([0, 1, 2, 3, 4, 5] * 5)
    cut = short.prompt([0, 1, 2, 3, 4, 5] * 5)
    assert limit - 3 < len(cut) <= limit, "no item is lost that fits"
    kept = _codes(cut)
    assert len(kept) % 3 == 0
    assert len(kept) > 0
    assert kept == _codes(whole)[-len(kept) :]


def test_text_answers_end_and_are_capped() -> None:
    row = renderer(MADE).render(Example("id_to_item", item=2, text="red " * 50), 0)
    answer = row.tokens[row.answer :]
    assert answer[-1] == MADE.tokenizer.eos_token_id
    assert len(answer) == 8 + 1


def test_an_epochs_batches_depend_on_seed_and_epoch_alone() -> None:
    examples = {"sequential": [Example("sequential", history=(i % 6, (i + 1) % 6)) for i in range(40)]}

    def tokens(seed: int, epoch: int) -> list[list[list[int]]]:
        made = epoch_batches(examples, renderer(MADE), {"sequential": 1}, batch_tokens=64, seed=seed, epoch=epoch)
        return [b.tokens.tolist() for b in made]

    assert tokens(0, 1) == tokens(0, 1)
    assert tokens(0, 1) != tokens(0, 2)
    assert tokens(0, 1) != tokens(1, 1)


@pytest.mark.parametrize(("weight", "rows"), [(0, 0), (0.5, 20), (1, 40), (2.25, 90)])
def test_weights_are_passes_over_a_task(weight: float, rows: int) -> None:
    examples = {"item_to_id": [Example("item_to_id", item=i % 6, text=TITLES[i % 6]) for i in range(40)]}
    made = epoch_batches(examples, renderer(MADE), {"item_to_id": weight}, batch_tokens=128, seed=0, epoch=0)
    assert sum(len(b.tokens) for b in made) == rows
    assert all(b.tokens.numel() <= 128 for b in made)


def test_padding_asks_nothing() -> None:
    batch = pad([Row([1, 2, 3, 4], 2), Row([5, 6], 1)])
    assert batch.tokens.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert batch.targets.tolist() == [[IGNORED, 3, 4], [6, IGNORED, IGNORED]]


def test_batches_hold_as_many_rows_of_like_length_as_fit() -> None:
    assert buckets([3, 2, 6, 2, 2, 3, 9], range(7), 6) == [[1, 3, 4], [0, 5], [2], [6]]
