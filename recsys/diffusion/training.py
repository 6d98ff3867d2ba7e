"""Training of the heads on given conditions: the diffusion head's own, and what the plain heads share with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.loss import Losses, PreferenceLoss
from recsys.diffusion.preference import PreferenceModel
from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray
from recsys.tracking import Tracker
from recsys.training.checkpoints import Fingerprint
from recsys.training.devices import default_device, uses_bf16
from recsys.training.ema import MovingAverage
from recsys.training.plan import Loss, Plan, Progress, Run
from recsys.training.seeding import seeded
from recsys.training.trainer import Trainer


class Rows(NamedTuple):
    """Training data: conditions [P, d_h], the item index that follows each [P], and the items' latents [N, D].

    `weights` [P] are factors of the rows' losses, with a mean of 1; None where all weigh the same.
    """

    conditions: FloatArray
    targets: IntArray
    latents: FloatArray
    weights: FloatArray | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """d_h and D."""
        return self.conditions.shape[1], self.latents.shape[1]


def fit_preference(
    conditions: FloatArray,
    targets: IntArray,
    latents: FloatArray,
    config: DiffuseConfig,
    *,
    seed: int,
    weights: FloatArray | None = None,
    validate: Callable[[PreferenceModel], float] | None = None,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> PreferenceModel:
    """Train the diffusion head (ContRec, arXiv 2504.12007, repaired) on conditions of a frozen language model.

    Args:
        conditions: float32 [P, d_h], one row a training example.
        targets: int64 [P], the index of the item that follows.
        latents: float32 [N, D], normalised item latents.
        seed: decides everything random.
        weights: float32 [P], how much each target counts, in any scale; 0 for what is none. None: all alike.
        validate: the score (higher is better) that chooses among epochs; without it the last one is kept.
        work: folder for checkpoints; a killed run given the same folder continues and ends bit-equal.
        tracker: receives `preference/...` metrics once an epoch.

    Raises:
        DataError: there are no rows, or none of a weight above 0, or the arrays do not fit each other.
        ArtifactError: the checkpoint in `work` cannot be read.
    """
    rows = training_rows(conditions, targets, latents, weights)
    with seeded(seed, 0):
        denoiser = Denoiser(*rows.widths, hidden_size=config.hidden_size, num_layers=config.num_layers)
    module = PreferenceLoss(denoiser, torch.from_numpy(latents), config).to(default_device())
    average = MovingAverage(denoiser, config.ema_decay)
    model = PreferenceModel(average.module, config)
    run = Run("preference", seed, work, tracker)
    score = None if validate is None else lambda: validate(PreferenceModel(average.module, config))
    fit(module, rows, config, run=run, average=average, validate=score)
    return model


def training_rows(
    conditions: FloatArray, targets: IntArray, latents: FloatArray, weights: FloatArray | None = None
) -> Rows:
    """The rows, if they can be trained on, without those of weight 0.

    Raises:
        DataError: there are none, lengths differ, a target is no item, or a condition is not finite.
    """
    if weights is not None:
        if len(weights) != len(targets):
            raise DataError(f"a head needs one weight a target; got {len(weights)}, {len(targets)}")
        kept = weights > 0
        conditions, targets, weights = conditions[kept], targets[kept], weights[kept]
    if not len(targets) or len(conditions) != len(targets):
        raise DataError(f"a head needs one condition a target and at least one; got {len(conditions)}, {len(targets)}")
    if targets.min() < 0 or targets.max() >= len(latents):
        raise DataError(f"targets must be item indices in 0..{len(latents) - 1}; got {targets.min()}..{targets.max()}")
    if not np.isfinite(conditions).all() or not np.isfinite(latents).all():
        raise DataError("conditions or latents hold NaN or infinite values; train the model they come from again")
    if weights is not None:
        weights = (weights / weights.mean(dtype=np.float64)).astype(np.float32)
    return Rows(conditions, targets, latents, weights)


def fit(
    module: nn.Module,
    rows: Rows,
    config: DiffuseConfig,
    *,
    run: Run,
    average: MovingAverage[Any],
    validate: Callable[[], float] | None = None,
    to_plateau: bool = False,
) -> Progress:
    """Train a module (conditions [B, d_h], targets [B], weights -> `Losses`) on rows; `average` has the kept weights.

    Args:
        validate: scores the averaged weights every `config.validate_every` epochs and after the last.
        to_plateau: at a constant learning rate until `validate` stops rising, for at most `config.plain_epochs`; the
            average does what the cosine does in a training of known length.
    """
    device = next(module.parameters()).device
    plan = Plan(
        config.epochs,
        config.learning_rate,
        config.weight_decay,
        betas=(0.9, 0.99),
        decay_vectors=False,
        warmup_ratio=config.warmup_ratio,
        final_ratio=0.05,
        max_grad_norm=1.0,
        fused=True,
        bf16=uses_bf16(config.precision, device),
        validate_every=config.validate_every,
    )
    if to_plateau and validate is not None:
        warmup_ratio = min(config.warmup_ratio * config.epochs / config.plain_epochs, 0.5)
        plan = plan._replace(
            epochs=config.plain_epochs, patience=config.patience, warmup_ratio=warmup_ratio, final_ratio=1.0
        )

    def batches(epoch: int) -> list[tuple[Tensor, ...]]:
        order = torch.from_numpy(np.random.default_rng((run.seed, epoch)).permutation(len(rows.targets)))
        return [(batch,) for batch in torch.split(order, config.batch_size)]

    return Trainer(
        _HeadLoss(module, rows, config.dispersive_weight, device),
        batches,
        plan,
        run=run,
        fingerprint=Fingerprint.of(run.name, run.seed, config, *(part for part in rows if part is not None), plan.bf16),
        validate=validate,
        average=average,
    ).train()


class _HeadLoss(nn.Module):
    """Positions of rows [B] -> the loss of their conditions and targets."""

    def __init__(self, module: nn.Module, rows: Rows, dispersive_weight: float, device: torch.device) -> None:
        super().__init__()
        self.module, self._weight = module, dispersive_weight
        self._conditions = torch.from_numpy(rows.conditions).to(device)
        self._targets = torch.from_numpy(rows.targets).to(device)
        self._factors = None if rows.weights is None else torch.from_numpy(rows.weights).to(device)

    def forward(self, positions: Tensor) -> Loss:
        factors = None if self._factors is None else self._factors[positions]
        losses: Losses = self.module(self._conditions[positions], self._targets[positions], factors)
        values = {"loss": losses.diffusion}
        if losses.dispersive.requires_grad:
            values["dispersive"] = losses.dispersive
        return Loss(losses.total(self._weight), values, len(positions))
