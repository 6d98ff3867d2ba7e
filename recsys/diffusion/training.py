"""The one training loop of all heads on given conditions, and the diffusion head's way through it.

Everything random is a function of (seed, epoch, step), so a run that is killed and started again ends with the weights
of an uninterrupted one. What is kept is the moving average of the weights: its best by the caller's `validate`, or its
last. Writes checkpoints into the work folder where one is given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.checkpoints import (
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prefixed,
    save_checkpoint,
    seeded,
    unprefixed,
)
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.loss import Losses, PreferenceLoss
from recsys.diffusion.preference import PreferenceModel, default_device, uses_bf16
from recsys.errors import DataError
from recsys.tables import FloatArray, IntArray
from recsys.tracking import NullTracker, Tracker

_CLIP = 1.0  # gradient norm
_FLOOR = 0.05  # the learning rate ends at this share of its peak


class Run(NamedTuple):
    """What a training needs besides its hyper-parameters."""

    name: str  # prefix of its metrics: "preference", "regression", "cross_entropy"
    seed: int
    work: Path | None = None
    tracker: Tracker | None = None


class Rows(NamedTuple):
    """What is trained on: conditions [P, d_h], the item index that follows each [P], and the items' latents [N, D]."""

    conditions: FloatArray
    targets: IntArray
    latents: FloatArray

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
        validate: the score (higher is better) that chooses among epochs; without it the last one is kept.
        work: where checkpoints go; a killed run given the same folder continues and ends bit-equal.
        tracker: receives `preference/...` metrics once an epoch.

    Raises:
        DataError: there are no rows, or the arrays do not fit each other.
        ArtifactError: the checkpoint in `work` cannot be read.
    """
    rows = checked_rows(conditions, targets, latents)
    with seeded(seed, 0):
        denoiser = Denoiser(*rows.widths, hidden_size=config.hidden_size, num_layers=config.num_layers)
    module = PreferenceLoss(denoiser, torch.from_numpy(latents), config).to(default_device())

    def score() -> float:
        assert validate is not None
        return validate(PreferenceModel(denoiser, config))

    run = Run("preference", seed, work, tracker)
    fit(module, rows, config, run=run, validate=None if validate is None else score)
    return PreferenceModel(denoiser, config)


def checked_rows(conditions: FloatArray, targets: IntArray, latents: FloatArray) -> Rows:
    """The rows, if they can be trained on.

    Raises:
        DataError: there are none, lengths differ, a target is no item, or a condition is not finite.
    """
    if not len(targets) or len(conditions) != len(targets):
        raise DataError(f"a head needs one condition a target and at least one; got {len(conditions)}, {len(targets)}")
    if targets.min() < 0 or targets.max() >= len(latents):
        raise DataError(f"targets must be item indices in 0..{len(latents) - 1}; got {targets.min()}..{targets.max()}")
    if not np.isfinite(conditions).all() or not np.isfinite(latents).all():
        raise DataError("conditions or latents hold NaN or infinite values; train what they come from again")
    return Rows(conditions, targets, latents)


def fit(
    module: nn.Module,
    rows: Rows,
    config: DiffuseConfig,
    *,
    run: Run,
    validate: Callable[[], float] | None = None,
) -> None:
    """Train a module (conditions [B, d_h], targets [B] -> `Losses`) and leave the kept weights in it.

    `validate` is called with the averaged weights in place, every `config.validate_every` epochs and after the last.
    """
    trainer = _Trainer(module, rows, config, run)
    tracker = run.tracker or NullTracker()
    start = trainer.resume()
    for epoch in tracker.track(range(start, config.epochs), f"{run.name} epochs", config.epochs - start):
        tracker.log(trainer.epoch(epoch), step=epoch + 1)
        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs
        if validate is not None and due:
            tracker.log({f"{run.name}/validation_ndcg@10": trainer.keep_if_best(validate)}, step=epoch + 1)
        trainer.checkpoint(epoch + 1)
    trainer.finish()


def learning_rate(config: DiffuseConfig, progress: float) -> float:
    """Linear warm-up, then a cosine to a twentieth of the peak. `progress` is the share of the training done."""
    if progress < config.warmup_ratio:
        return config.learning_rate * max(progress / config.warmup_ratio, 0.01)
    rest = (progress - config.warmup_ratio) / (1 - config.warmup_ratio)
    return config.learning_rate * (_FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * rest)) / 2)


class _Trainer:
    def __init__(self, module: nn.Module, rows: Rows, config: DiffuseConfig, run: Run) -> None:
        self.module, self.config, self.run = module, config, run
        self.named = dict(module.named_parameters())
        self.device = next(iter(self.named.values())).device
        self.conditions = torch.from_numpy(rows.conditions).to(self.device)
        self.targets = torch.from_numpy(rows.targets).to(self.device)
        matrices = [p for p in self.named.values() if p.ndim > 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": [p for p in self.named.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
        self.average = self._copy()
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf
        self.bf16 = uses_bf16(config, self.device)
        described = f"{run.name} {config.model_dump_json()} {run.seed} {rows.conditions.shape} {self.bf16}"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the rows in an order of its own; the mean losses."""
        self.module.train()
        order = torch.from_numpy(np.random.default_rng((self.run.seed, epoch)).permutation(len(self.targets)))
        batches = torch.split(order.to(self.device), self.config.batch_size)
        total = torch.zeros(2, device=self.device)
        for index, batch in enumerate(batches):
            losses = self._step(batch, epoch * len(batches) + index, self.config.epochs * len(batches))
            total += torch.stack([losses.diffusion, losses.dispersive]).detach() * len(batch) / len(order)
        loss, dispersive = total.tolist()
        extra = {f"{self.run.name}/dispersive": dispersive} if dispersive else {}
        return {f"{self.run.name}/loss": loss, **extra}

    def _step(self, batch: Tensor, step: int, steps: int) -> Losses:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step / steps)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
        with seeded(self.run.seed, step + 1), autocast:
            losses: Losses = self.module(self.conditions[batch], self.targets[batch])
        self.optimizer.zero_grad(set_to_none=True)
        losses.total(self.config.dispersive_weight).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(list(self.named.values()), _CLIP)
        self.optimizer.step()
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for name, parameter in self.named.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)
        return losses

    def keep_if_best(self, validate: Callable[[], float]) -> float:
        """The averaged weights' score; they are kept where it is the best so far."""
        present = self._copy()
        self._put(self.average)
        self.module.eval()
        score = float(validate())
        self._put(present)
        if score > self.best_score:
            self.best_score, self.best = score, {name: tensor.clone() for name, tensor in self.average.items()}
        return score

    def finish(self) -> None:
        """Leave the kept weights in the module."""
        self._put(self.best or self.average)
        self.module.eval()

    def checkpoint(self, epochs_done: int) -> None:
        if self.run.work is None:
            return
        weights = prefixed("model", dict(self.named)) | prefixed("average", self.average) | prefixed("best", self.best)
        meta = {"epochs_done": epochs_done, "best_score": self.best_score, "fingerprint": self.fingerprint}
        save_checkpoint(self.run.work, weights | optimizer_tensors(self.optimizer), meta)

    def resume(self) -> int:
        """Epochs already done by a run of the same head, configuration, seed and shape; its state is taken over."""
        found = None if self.run.work is None else load_checkpoint(self.run.work)
        if found is None or found.meta.get("fingerprint") != self.fingerprint:
            return 0
        self._put(unprefixed("model", found.tensors))
        load_optimizer(self.optimizer, found.tensors)
        self.average, self.best = (
            {name: tensor.to(self.device) for name, tensor in unprefixed(part, found.tensors).items()}
            for part in ("average", "best")
        )
        self.best_score = float(found.meta["best_score"])
        return int(found.meta["epochs_done"])

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named.items()}

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.named[name].copy_(value)
