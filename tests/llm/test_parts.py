"""Parts of a step, over batches or processes, have together the loss and the gradient of one batch of all rows."""

from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from recsys.instructions.examples import Example
from recsys.llm.collation import PLAIN, epoch_batches
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.item_loss import ItemLoss, ItemLossWeights
from recsys.llm.item_rows import branched_form
from recsys.llm.parts import RowForm, Split, step_parts
from recsys.training.checkpoints import Fingerprint
from recsys.training.plan import Plan, Run
from recsys.training.trainer import Trainer
from tests.llm.fakes import TITLES, item_table, language_model, semantic_ids
from tests.training.trainings import Killer

HISTORIES = [(0, 3, 1), (5,), (2, 4, 2, 2, 0), (1, 1)]
WEIGHTS = [(0.5, 1.0, 2.0), (), (0.0, 1.0, 0.0, 3.0, 1.0), (0.0, 1.0)]
TEXT = [Example("item_to_id", item=2, text="red pot"), Example("id_to_item", item=4, text="blue lid")]


def made(items: bool, weighted: bool) -> tuple[nn.Module, RowForm, list[list[Any]]]:
    """A loss, the form of its rows, and three batches: of histories, of texts alone, of one row."""
    model = language_model()
    examples = [
        Example("sequential", history=h, weights=w if weighted else ()) for h, w in zip(HISTORIES, WEIGHTS, strict=True)
    ]
    if not items:
        renderer = model.renderer(semantic_ids())
        form, loss = PLAIN, LanguageModelLoss(model.model, model.layout)
    else:
        table = item_table()
        renderer = model._replace(items=table).renderer(semantic_ids())
        form = branched_form(renderer)
        loss = ItemLoss(model.model, model.layout, table, ItemLossWeights(0.7, 0.4))  # type: ignore[assignment]
    rows = [form.shape(renderer.render(example, 1)) for example in [*examples, *TEXT]]
    return loss, form, [rows[:3], rows[4:], rows[3:4]]


@pytest.mark.parametrize("split", [Split(accumulation=3), Split(processes=2), Split(processes=3, accumulation=3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("items", [False, True])
def test_the_gradients_of_all_parts_add_up_to_those_of_one_batch(items: bool, weighted: bool, split: Split) -> None:
    module, form, groups = made(items, weighted)
    whole = module(*form.collate([row for group in groups for row in group])).mean()
    named = dict(module.named_parameters())
    expected = torch.autograd.grad(whole, list(named.values()), allow_unused=True)
    losses = [
        module(*part).mean()
        for rank in range(split.processes)
        for part in step_parts(groups, form, split._replace(rank=rank))
    ]
    torch.testing.assert_close(sum(losses), whole)
    found = torch.autograd.grad(sum(losses), list(named.values()), allow_unused=True)
    for name, mine, reference in zip(named, found, expected, strict=True):
        scale = reference.abs().max().clamp(min=1)
        torch.testing.assert_close(mine / scale, reference / scale, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("items", [False, True])
def test_counts_of_rows_are_those_of_their_batches(items: bool) -> None:
    _, form, groups = made(items, weighted=True)
    for group in groups:
        batch, counts = form.collate(group), [form.counts(row) for row in group]
        assert int((batch.targets >= 0).sum()) == sum(count.targets for count in counts)
        assert (len(batch.items) if items else 0) == sum(count.items for count in counts)


def test_every_process_has_as_many_steps_and_every_row_is_dealt_once() -> None:
    model = language_model()
    examples = {"item_to_id": [Example("item_to_id", item=i % 6, text=TITLES[i % 6]) for i in range(40)]}

    def tokens(split: Split) -> list[list[list[int]]]:
        made = epoch_batches(
            examples,
            model.renderer(semantic_ids()),
            {"item_to_id": 1},
            batch_tokens=128,
            seed=0,
            epoch=0,
            split=split,
        )
        steps = [step if isinstance(step, list) else [step] for step in made]
        return [[row.tolist() for part in step for row in part.tokens] for step in steps]

    def unpadded(steps: list[list[list[int]]]) -> list[list[tuple[int, ...]]]:
        return [sorted(tuple(token for token in row if token) for row in step) for step in steps]

    alone = unpadded(tokens(Split()))
    shares = [tokens(Split(rank, 3, 2)) for rank in range(3)]
    assert [len(share) for share in shares] == [-(-len(alone) // 2)] * 3
    together = unpadded([list(chain(*rows)) for rows in zip(*shares, strict=True)])
    assert together == [sorted(chain(*alone[start : start + 2])) for start in range(0, len(alone), 2)]


def test_accumulated_training_is_that_of_large_batches() -> None:
    results = []
    for accumulated in (False, True):
        module, form, groups = made(items=True, weighted=True)
        rows = [row for group in groups for row in group]
        step = step_parts(groups, form, Split(accumulation=3)) if accumulated else form.collate(rows)
        tracker = _Losses()
        Trainer(
            module,
            lambda epoch, step=step: [step] * 3,
            Plan(2, 1e-3, max_grad_norm=1.0, distributed=True, log_steps=1),
            run=Run("test", 0, None, tracker),
            fingerprint=Fingerprint("test", 0, {}, ""),
        ).train()
        results.append((tracker.values, [p.detach().clone() for p in module.parameters()]))
    (losses, weights), (accumulated_losses, accumulated_weights) = results
    assert len(losses) == 6
    assert accumulated_losses == pytest.approx(losses, rel=1e-5)
    for mine, reference in zip(accumulated_weights, weights, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


class _Losses(Killer):
    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def log(self, values: Any, *, step: int) -> None:
        self.values += [v for name, v in values.items() if name.endswith("/loss")]
