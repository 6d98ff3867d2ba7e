"""The parts of the trainer by themselves: schedule, moving average, softmax, best epoch, patience, gradient norm."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.training import softmax
from recsys.training.checkpoints import Fingerprint
from recsys.training.ema import MovingAverage
from recsys.training.plan import Loss, Plan, Progress, Run
from recsys.training.processes import Processes
from recsys.training.softmax import Terms, softmax_loss
from recsys.training.trainer import Trainer


class Line(nn.Module):
    """Two parameters, of which `weight` has two dimensions; the loss pulls their sum to a million."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))

    def forward(self, rows: torch.Tensor) -> Loss:
        loss = (self.weight + self.bias - 1e6).square().mean()
        return Loss(loss, {"loss": loss}, len(rows))


def train(module: Line, scores: Sequence[float] | None = None, **changes: Any) -> Progress:
    plan = Plan(**{"epochs": 6, "learning_rate": 0.1} | changes)
    remaining = iter(scores or ())
    return Trainer(
        module,
        lambda epoch: [(torch.zeros(4),), (torch.zeros(2),)],
        plan,
        run=Run("line", 0),
        fingerprint=Fingerprint.of("line", 0, Config()),
        validate=None if scores is None else lambda: next(remaining),
    ).train()


def test_the_best_epoch_is_restored_and_training_stops_when_validation_has_settled() -> None:
    module, alone = Line(), Line()
    progress = train(module, [0.1, 0.3, 0.2, 0.3, 0.9], patience=2)
    assert (progress.epoch, progress.best_epoch, progress.best, progress.settled) == (4, 2, 0.3, True)
    train(alone, epochs=2)
    assert torch.equal(module.weight, alone.weight)


def test_a_validation_that_still_rises_at_the_last_epoch_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        progress = train(Line(), [0.1, 0.2, 0.3], epochs=3, patience=2)
    assert not progress.settled
    assert "line: the maximum of 3 epochs ended it before validation settled (best at epoch 3)" in caplog.text
    caplog.clear()
    train(Line(), [0.1, 0.2, 0.3], epochs=3)
    train(Line(), [0.3, 0.2, 0.1], epochs=3, patience=2)
    assert caplog.text == ""


def test_validation_comes_every_so_many_epochs_and_after_the_last() -> None:
    seen: list[int] = []
    module = Line()

    class Tracker:
        def log(self, values: Any, *, step: int) -> None:
            seen.extend([step] if "line/validation_ndcg@10" in values else [])

        def track(self, iterable: Any, description: str, total: int | None = None) -> Any:
            return iterable

    Trainer(
        module,
        lambda epoch: [(torch.zeros(1),)],
        Plan(5, 0.1, validate_every=2),
        run=Run("line", 0, None, Tracker()),
        fingerprint=Fingerprint.of("line", 0, Config()),
        validate=lambda: 0.5,
    ).train()
    assert seen == [2, 4, 5]


def test_weight_decay_spares_vectors_where_asked_and_learning_rates_differ_by_name() -> None:
    both, matrices, slow = Line(), Line(), Line()
    for module, changes in ((both, {}), (matrices, {"decay_vectors": False}), (slow, {"rate_factors": {"bias": 0.5}})):
        train(module, epochs=1, weight_decay=0.5, **changes)
    assert torch.equal(both.weight[0], both.bias)
    assert torch.equal(matrices.weight, both.weight)
    assert matrices.bias > both.bias
    assert float(slow.bias.detach() - 1) == pytest.approx(0.5 * float(both.bias.detach() - 1), rel=0.02)


class Apart(Processes):
    """Two processes, the other of which is at its third step."""

    def copy_first(self, tensors: Any) -> None:
        pass

    def sum_values(self, values: Any) -> dict[str, float]:
        return {name: value + 3 for name, value in values.items()}


def test_processes_that_read_different_checkpoints_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "launched", lambda: Apart(0, 2))
    with pytest.raises(ArtifactError, match="line: the 2 processes read different checkpoints in None; give all"):
        train(Line(), distributed=True, log_steps=1)


def test_gradients_are_clipped_to_their_norm() -> None:
    module = Line()
    train(module, epochs=1, max_grad_norm=0.5)
    assert module.weight.grad is not None
    assert module.bias.grad is not None
    assert torch.cat([module.weight.grad[0], module.bias.grad]).norm() == pytest.approx(0.5, rel=1e-4)


def test_the_schedule_warms_up_and_falls_along_a_cosine() -> None:
    plan = Plan(1, 1.0, warmup_ratio=0.1, final_ratio=0.05)
    factors = [plan.learning_rate_factor(progress) for progress in (0, 0.05, 0.1, 0.55, 1)]
    assert factors == pytest.approx([0.01, 0.5, 1, 0.525, 0.05])
    assert [Plan(1, 1.0).learning_rate_factor(progress) for progress in (0, 0.5, 1)] == [1, 1, 1]


def test_the_average_follows_from_the_first_step() -> None:
    """Decay min(.999, n / (9 + n)): after one step a tenth is left of the start; later it is the given one."""
    source = nn.Linear(4, 2)
    average = MovingAverage(source, 0.5)
    start = source.weight.detach().clone()
    with torch.no_grad():
        source.weight += 1
    average.update()
    torch.testing.assert_close(average.module.weight, start + 0.9)
    for _ in range(30):
        average.update()
    before = average.module.weight.clone()
    with torch.no_grad():
        source.weight += 1
    average.update()
    torch.testing.assert_close(average.module.weight, before + 0.5, atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in average.parameters())


def test_the_softmax_loss_and_its_gradients_equal_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ROWS", 3)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=generator, dtype=torch.float64) * 5 for n in (8, 11))
    targets = torch.randint(11, (8,), generator=generator)
    results = []
    for loss in (softmax_loss, lambda h, w, t: torch.nn.functional.cross_entropy(h @ w.T, t)):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        value = loss(*leaves, targets)
        (2 * value).backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("weighted", [False, True])
def test_terms_of_single_logits_and_their_gradients(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ROWS", 3)
    generator = torch.Generator().manual_seed(0)
    hidden, items = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (8, 11))
    values, targets = torch.tensor([1.5, -2.0, 0.5], dtype=torch.float64), torch.randint(11, (8,), generator=generator)
    weights = torch.rand(8, generator=generator, dtype=torch.float64) if weighted else None
    rows, columns = torch.tensor([0, 0, 2, 3, 3, 7]), torch.tensor([1, int(targets[0]), 4, int(targets[3]), 2, 9])
    groups = torch.tensor([0, 1, 2, 1, 1, 0])
    results = []
    for naive in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in (hidden, items, values)]
        if naive:
            logits = leaves[0] @ leaves[1].T
            logits = logits.index_put((rows, columns), leaves[2][groups], accumulate=True)
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            loss = (losses if weights is None else losses * weights).sum() / 8
        else:
            terms = Terms(rows, columns, groups, leaves[2])
            loss = softmax_loss(leaves[0], leaves[1], targets, weights=weights, terms=terms)
        (3 * loss).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference)
