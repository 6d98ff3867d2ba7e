"""How a training proceeds, apart from the model and its data; and what a step of one returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from recsys.tracking import Tracker

_LEAST = 0.01  # of the peak learning rate, at the first steps


class Run(NamedTuple):
    """The name, seed and outputs of one training.

    Attributes:
        name: prefix of its metrics, such as "sasrec".
        work: folder for checkpoints; a killed run given the same folder continues and ends bit-equal. None keeps none.
        tracker: receives `name/...` metrics and progress.
    """

    name: str
    seed: int
    work: Path | None = None
    tracker: Tracker | None = None


class Plan(NamedTuple):
    """Hyper-parameters of a training by AdamW.

    Attributes:
        decay_vectors: whether weight decay applies to biases and norms too, which have one dimension.
        rate_factors: prefix of a parameter's name -> factor on its learning rate.
        warmup_ratio: share of the training in which the learning rate rises, from `warmup_start` of its peak.
        final_ratio: share of the peak that the learning rate falls to along a cosine; 1 keeps it constant.
        anneal_by_epoch: the learning rate changes between epochs only.
        max_grad_norm: gradients are clipped to this norm; None clips none.
        fused: the optimizer's fused kernel.
        bf16: matrix products of the forward pass in bfloat16.
        distributed: several processes, where they were launched, train the model together, each on its part of every
            step; needs `log_steps`, as means of an epoch are not collected from all.
        validate_every: epochs between validations; the last epoch is validated too.
        validate_first: whether the untrained weights are validated.
        patience: training stops after this many validations without a new best; None trains all `epochs`.
        fixed_epochs: training stops no earlier, and `Trainer.fixed` keeps the weights after them, which validation has
            no part in; 0 keeps none.
        log_steps: steps between logged losses; None logs an epoch's means.
        checkpoint_steps: least number of steps between checkpoints.
        checkpoint_within_epochs: whether checkpoints are written between an epoch's steps, not only at its end.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    decay_vectors: bool = True
    rate_factors: Mapping[str, float] = MappingProxyType({})
    warmup_ratio: float = 0.0
    warmup_start: float = 0.0
    final_ratio: float = 1.0
    anneal_by_epoch: bool = False
    max_grad_norm: float | None = None
    fused: bool = False
    bf16: bool = False
    distributed: bool = False
    validate_every: int = 1
    validate_first: bool = False
    patience: int | None = None
    fixed_epochs: int = 0
    log_steps: int | None = None
    checkpoint_steps: int = 50
    checkpoint_within_epochs: bool = False

    def learning_rate_factor(self, progress: float) -> float:
        """Linear warm-up, then a cosine to `final_ratio`. `progress` is the share of the training done, 0..1."""
        if progress < self.warmup_ratio:
            return max(self.warmup_start + (1 - self.warmup_start) * progress / self.warmup_ratio, _LEAST)
        rest = (progress - self.warmup_ratio) / max(1 - self.warmup_ratio, 1e-9)
        return self.final_ratio + (1 - self.final_ratio) * (1 + math.cos(math.pi * min(rest, 1.0))) / 2


class Progress(NamedTuple):
    """How far a training is: `step` batches of epoch number `epoch` are done."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    first: float = -math.inf  # the score before the first epoch
    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0  # validations since the best
    settled: bool = False  # whether validation stopped rising before the epochs ended


def plateau_notes(name: str, progress: Progress | None) -> dict[str, Any]:
    """How a training to a plateau ended, for a stage's record: its best epoch, its last, and whether it settled."""
    if progress is None:
        return {}
    return {f"{name}_epochs": [progress.best_epoch, progress.epoch], f"{name}_settled": progress.settled}


class StepLoss(Protocol):
    """What a step's forward pass returns."""

    def mean(self) -> Tensor:
        """The scalar that is minimized."""

    def parts(self) -> Mapping[str, Tensor]:
        """The scalars that are logged, by name."""

    @property
    def num_examples(self) -> int:
        """How many examples they are means over; weights an epoch's means."""


class Loss(NamedTuple):
    """A `StepLoss` of given values."""

    total: Tensor
    values: Mapping[str, Tensor]
    num_examples: int

    def mean(self) -> Tensor:
        return self.total

    def parts(self) -> Mapping[str, Tensor]:
        return self.values


def added(losses: Sequence[StepLoss]) -> Loss:
    """The sum of the losses of all parts of a step; 0 where a process has none."""
    values: dict[str, Tensor] = {}
    for loss in losses:
        for name, value in loss.parts().items():
            values[name] = values.get(name, torch.zeros(())) + value.detach().cpu()
    total = sum((loss.mean().detach().cpu() for loss in losses), torch.zeros(()))
    return Loss(total, values, sum(loss.num_examples for loss in losses))


class Callbacks:
    """What a training does besides steps; nothing by default."""

    def on_start(self) -> None:
        """Before the first step; a resumed training does not repeat it."""

    def on_epoch_end(self, optimizer: torch.optim.Optimizer, *, last: bool) -> Mapping[str, float]:
        """After an epoch's steps; returns values to log with its losses."""
        return {}
