"""Conditions are the states the ranker decodes from: known before the item, equal in training and in use."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.histories import TrainingSequence
from recsys.decoding.tree import Tree
from recsys.errors import ModelError
from recsys.instructions.config import InstructConfig
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import sequential
from recsys.llm.conditions import (
    DiscreteConditions,
    QueryConditions,
    discrete_batches,
    sequential_rows,
    training_conditions,
    windows,
)
from recsys.llm.heads import LanguageModelLoss
from recsys.tables import Histories
from tests.llm.fakes import language_model, renderer, semantic_ids

MADE = language_model()
IDS = semantic_ids()
HISTORY = [0, 3, 1, 5, 2, 4, 0]
HISTORIES = st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=1, max_size=4)


def _histories(*lists: list[int]) -> Histories:
    return Histories.from_lists([f"u{n}" for n in range(len(lists))], list(lists))


@settings(max_examples=20, deadline=None)
@given(HISTORIES, st.integers(2, 5))
def test_windows_are_those_of_the_sequential_task(lists: list[list[int]], window: int) -> None:
    source = TaskSource(catalog=None, histories=_histories(*lists), max_history=window)  # type: ignore[arg-type]
    wanted = [e.history for e in sequential(source, InstructConfig())]
    assert [tuple(w.items.tolist()) for w in windows(source.histories, window)] == wanted


@settings(max_examples=10, deadline=None)
@given(HISTORIES)
def test_a_training_condition_is_the_query_condition_of_its_prefix(lists: list[list[int]]) -> None:
    made = training_conditions(MADE, IDS, _histories(*lists), window=50)
    prefixes = [items[:t] for items in lists if len(items) > 1 for t in range(len(items))]
    asked = QueryConditions(MADE, IDS)(_histories(*prefixes), window=50)
    assert made.targets.tolist() == [i for items in lists if len(items) > 1 for i in items]
    assert made.states.dtype == torch.float32
    torch.testing.assert_close(made.states, asked, atol=1e-5, rtol=1e-5)


def test_a_query_condition_is_the_state_the_ranker_decodes_from() -> None:
    prompt = torch.tensor([renderer(MADE).prompt(HISTORY[-4:])])
    with torch.no_grad():
        wanted = Tree(MADE.model, prompt, torch.tensor([prompt.shape[1]])).root[0]
    torch.testing.assert_close(QueryConditions(MADE, IDS)(_histories(HISTORY), window=4), wanted)


@pytest.mark.parametrize("position", range(len(HISTORY)))
def test_no_condition_sees_its_target(position: int) -> None:
    """Replacing an item leaves all conditions up to the one before it equal, bit for bit, and changes later ones."""
    other = HISTORY.copy()
    other[position] = (HISTORY[position] + 1) % 6
    first = training_conditions(MADE, IDS, _histories(HISTORY), window=50).states
    second = training_conditions(MADE, IDS, _histories(other), window=50).states
    assert torch.equal(first[: position + 1], second[: position + 1])
    assert all(not torch.equal(a, b) for a, b in zip(first[position + 1 :], second[position + 1 :], strict=True))


def test_over_long_histories_lose_their_oldest_items() -> None:
    short = MADE._replace(config=MADE.config.model_copy(update={"max_tokens": 16}))
    (row,) = sequential_rows(short, IDS, [TrainingSequence(np.array(HISTORY))])
    assert len(row.row.tokens) <= 16
    assert row.items.tolist() == HISTORY[-len(row.items) :]
    made = training_conditions(short, IDS, _histories(HISTORY), window=50)
    assert made.targets.tolist() == row.items.tolist()


def test_the_joint_batches_hold_the_same_conditions_and_the_sequential_loss() -> None:
    lists = [[0, 1, 2, 3], [4, 5], [3, 2, 1, 0, 5, 4]]
    histories = _histories(*lists)
    rows = sequential_rows(MADE, IDS, windows(histories, 50))
    frozen = training_conditions(MADE, IDS, histories, window=50)
    (batch,) = discrete_batches(rows, batch_tokens=4096, seed=0, epoch=0)
    found = DiscreteConditions(MADE.model, MADE.layout)(*batch)
    assert found.states.requires_grad
    wanted = LanguageModelLoss(MADE.model, MADE.layout)(batch.tokens, batch.targets)
    torch.testing.assert_close(found.language_model.mean(), wanted.mean())
    order = sorted(range(len(found.targets)), key=lambda i: found.states[i].tolist())
    other = sorted(range(len(frozen.targets)), key=lambda i: frozen.states[i].tolist())
    torch.testing.assert_close(found.states[order], frozen.states[other], atol=1e-5, rtol=1e-5)


def test_an_epochs_batches_depend_on_seed_and_epoch_alone() -> None:
    histories = _histories(*([i % 6, (i + 1) % 6, (i + 2) % 6][: 2 + i % 2] for i in range(20)))
    rows = sequential_rows(MADE, IDS, windows(histories, 50))

    def items(seed: int, epoch: int) -> list[list[int]]:
        return [b.items.tolist() for b in discrete_batches(rows, batch_tokens=40, seed=seed, epoch=epoch)]

    assert items(0, 1) == items(0, 1)
    assert items(0, 1) != items(0, 2)
    assert items(0, 1) != items(1, 1)


def test_histories_of_one_item_or_none_give_no_rows() -> None:
    assert QueryConditions(MADE, IDS)(_histories([], [3]), window=50).shape == (2, 32)
    empty = training_conditions(MADE, IDS, _histories([], [3]), window=50)
    assert empty.states.shape == (0, 32)
    assert len(empty.targets) == 0


def test_a_model_in_training_mode_is_refused() -> None:
    made = language_model()
    made.model.train()
    with pytest.raises(ModelError, match=r"model\.eval\(\)"):
        QueryConditions(made, IDS)(_histories(HISTORY), window=5)
