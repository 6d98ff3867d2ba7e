"""Weights of targets in the language model's loss and its conditions, against a naive loop."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from recsys.data.histories import TrainingSequence
from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example, load_examples, save_examples
from recsys.instructions.source import TaskSource
from recsys.instructions.tasks import TASKS
from recsys.llm.collation import IGNORED, Renderer, Row, epoch_batches, pad
from recsys.llm.conditions import DiscreteConditions, discrete_batches, sequential_rows, training_conditions
from recsys.llm.config import TrainingConfig
from recsys.llm.connector import Connector
from recsys.llm.continuous import ContinuousLayout, ContinuousPrompts, ContinuousTexts, collate
from recsys.llm.continuous_conditions import ContinuousConditions
from recsys.llm.finetuning import training_plan
from recsys.llm.heads import LanguageModelLoss
from recsys.tables import Catalog, Histories
from recsys.training.checkpoints import Fingerprint
from recsys.training.plan import Run
from recsys.training.trainer import Trainer
from tests.llm.fakes import TITLES, language_model, renderer, semantic_ids

MADE, IDS = language_model(), semantic_ids()
WEIGHTS = (0.5, 0.0, 2.0, 1.5)
EXAMPLE = Example("sequential", history=(0, 3, 1, 5), weights=WEIGHTS)


def _naive(tokens: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum over positions of the cross-entropy among a level's codes, or all tokens."""
    base, logits, total = MADE.layout.base, MADE.model(input_ids=tokens).logits, torch.zeros(())
    for row, column in (targets >= 0).nonzero().tolist():
        target = int(targets[row, column])
        start = 0 if target < base else base + 4 * ((target - base) // 4)
        stop = base + 12 if target < base else start + 4
        entropy = -F.log_softmax(logits[row, column, start:stop], -1)[target - start]
        total = total + weights[row, column] * entropy
    return total


def test_the_loss_is_a_weighted_sum() -> None:
    rows = [renderer(MADE).render(EXAMPLE, 0), renderer(MADE).render(Example("id_to_item", item=2, text="lid"), 0)]
    batch = pad(rows)
    assert batch.weights is not None
    with torch.no_grad():
        losses = LanguageModelLoss(MADE.model, MADE.layout)(*batch)
        naive = _naive(batch.tokens, batch.targets, batch.weights)
    torch.testing.assert_close(losses.code + losses.text, naive)
    assert losses.num_code == 9  # three of the four items, of three levels
    torch.testing.assert_close(losses.mean(), naive / (9 + losses.num_text))


def test_every_token_of_an_item_has_its_weight_and_weight_zero_is_no_target() -> None:
    row = renderer(MADE).render(EXAMPLE, 0)
    batch = pad([row])
    assert batch.weights is not None
    at = row.answer - 1
    assert batch.weights[0, at:].tolist() == np.repeat(WEIGHTS, 3).tolist()
    assert batch.targets[0, at + 3 : at + 6].tolist() == [IGNORED] * 3
    assert (batch.targets[0, at:] >= 0).sum() == 9
    assert batch.tokens.tolist() == [row.tokens[:-1]], "it stays in the history"


def test_rows_without_weights_count_once_beside_those_that_have_some() -> None:
    batch = pad([Row([1, 2, 3], 1), Row([4, 5], 0, [0.5, 3.0])])
    assert batch.targets.tolist() == [[2, 3], [5, IGNORED]]
    assert batch.weights is not None
    assert batch.weights.tolist() == [[1, 1], [3, 0]]
    assert pad([Row([1, 2, 3], 1)]).weights is None


def test_over_long_rows_keep_the_weights_of_their_newest_items() -> None:
    short = Renderer(MADE.tokenizer, MADE.layout, IDS, max_text_tokens=8, max_tokens=16)
    history = tuple(n % 6 for n in range(20))
    row = short.render(Example("sequential", history=history, weights=tuple(map(float, range(20)))), 0)
    kept = (len(row.tokens) - row.answer) // 3
    assert row.weights == np.repeat(np.arange(20.0)[-kept:], 3).tolist()
    lost = Example("sequential", history=history, weights=(1.0,) + (0.0,) * 19)
    assert epoch_batches({"sequential": [lost]}, short, {"sequential": 1}, batch_tokens=99, seed=0, epoch=0) == []


def test_equal_weights_train_the_same_model() -> None:
    histories = [tuple((i + j) % 6 for j in range(5)) for i in range(12)]
    trained = [_train([Example("sequential", history=h, weights=w) for h in histories]) for w in ((), (1.0,) * 5)]
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
    other = _train([Example("sequential", history=h, weights=(1.0, 1.0, 2.0, 0.5, 0.5)) for h in histories])
    assert not torch.equal(trained[0][0], other[0])


def _train(examples: list[Example]) -> list[torch.Tensor]:
    made = language_model()
    module, rows = LanguageModelLoss(made.model, made.layout), renderer(made)
    config = TrainingConfig(epochs=2, learning_rate=5e-3, batch_tokens=128)
    Trainer(
        module,
        lambda epoch: epoch_batches(
            {"sequential": examples}, rows, {"sequential": 1}, batch_tokens=128, seed=3, epoch=epoch
        ),
        training_plan(config, bf16=False, checkpoint_steps=99),
        run=Run("test", 3),
        fingerprint=Fingerprint.of("test", 3, config),
    ).train()
    return [parameter.detach() for parameter in module.parameters()]


def _weighted(lists: list[list[int]], weights: list[float]) -> Histories:
    plain = Histories.from_lists([str(n) for n in range(len(lists))], lists)
    return Histories(plain.user_ids, plain.indptr, plain.items, np.array(weights, np.float32))


def test_examples_keep_weights_with_a_mean_of_one(tmp_path: Path) -> None:
    catalog = Catalog(pl.DataFrame({"item_id": list("abcdef"), "title": TITLES}))
    histories = _weighted([[0, 1, 2], [3, 4]], [2, 0, 6, 0, 0])
    examples = list(TASKS["sequential"](TaskSource(catalog, histories), InstructConfig()))
    assert [(e.history, e.weights) for e in examples] == [((0, 1, 2), (0.5, 0, 1.5))]
    examples.append(Example("item_to_id", item=2, text="x"))
    save_examples(examples, catalog, tmp_path / "weighted.parquet")
    assert load_examples(tmp_path / "weighted.parquet", catalog) == examples
    save_examples([Example("sequential", history=(1, 2))], catalog, tmp_path / "plain.parquet")
    assert "weights" not in pl.read_parquet(tmp_path / "plain.parquet").columns


def test_conditions_carry_the_weights_of_what_follows() -> None:
    histories = _weighted([[0, 3, 1], [5, 2]], [1, 0, 3, 2, 2])
    found = training_conditions(MADE, IDS, histories, window=50)
    plain = training_conditions(MADE, IDS, Histories(histories.user_ids, histories.indptr, histories.items), window=50)
    torch.testing.assert_close(found.states, plain.states)
    assert plain.weights is None
    assert found.weights is not None
    assert found.targets.tolist() == [0, 3, 1, 5, 2]
    assert found.weights.tolist() == [0.5, 0, 1.5, 1, 1]


def test_joint_batches_leave_targets_of_weight_zero_out() -> None:
    sequence = TrainingSequence(np.array(EXAMPLE.history), np.array(WEIGHTS, np.float32))
    rows = sequential_rows(MADE, IDS, [sequence])
    (batch,) = discrete_batches(rows, batch_tokens=99, seed=0, epoch=0)
    found = DiscreteConditions(MADE.model, MADE.layout)(*batch)
    (bare,) = discrete_batches(
        sequential_rows(MADE, IDS, [TrainingSequence(sequence.items)]), batch_tokens=99, seed=0, epoch=0
    )
    every = DiscreteConditions(MADE.model, MADE.layout)(*bare)
    assert found.targets.tolist() == [0, 1, 5]
    assert found.weights is not None
    assert found.weights.tolist() == [0.5, 2, 1.5]
    torch.testing.assert_close(found.states, every.states[[0, 2, 3]])
    assert batch.weights is not None
    naive = _naive(batch.tokens, batch.targets, batch.weights)
    torch.testing.assert_close(found.language_model.code, naive)


@pytest.mark.parametrize("last", [0.0, 1.5])
def test_continuous_prompts_weigh_conditions_codes_and_the_text(last: float) -> None:
    latents = np.random.default_rng(0).standard_normal((6, 2, 4)).astype(np.float32)
    layout = ContinuousLayout(MADE.layout.size, 2)
    connector = Connector.for_model(MADE, latents, seed=0)
    conditions = ContinuousConditions(MADE, connector).eval()
    prompts = ContinuousPrompts(MADE, layout, ContinuousTexts(answers=TITLES))
    items, weights = np.array(EXAMPLE.history), np.array([*WEIGHTS[:3], last], np.float32)

    def losses(values: Any) -> Any:
        batch = collate([prompts.row(items, values)], sequential_rows(MADE, IDS, [TrainingSequence(items, values)]))
        with torch.no_grad():
            return batch, conditions(*batch)

    batch, found = losses(weights)
    assert found.targets.tolist() == [item for item, weight in zip(items, weights, strict=True) if weight]
    assert found.weights.tolist() == [weight for weight in weights.tolist() if weight]
    _, plain = losses(None)
    torch.testing.assert_close(found.language_model.text, plain.language_model.text * last)
    assert (found.language_model.num_text == 0) == (last == 0)
    code = _naive(batch.code_tokens, batch.code_targets, batch.code_weights)
    torch.testing.assert_close(found.language_model.code, code)
