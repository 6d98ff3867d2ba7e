"""The one training loop of the language model: in full, of an adapter, or with other parts; one process or several.

Everything random is a function of (seed, epoch, step), so a run that is killed at any step and started again ends with
the weights of an uninterrupted one. The kept weights are the best by the caller's `validate`, not by loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
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
from recsys.llm.config import TrainingConfig
from recsys.tracking import NullTracker, Tracker

_LOG_EVERY = 20  # steps


class Settings(NamedTuple):
    """What a training needs besides its hyper-parameters."""

    name: str  # prefix of its metrics: "language_model", "lora"
    seed: int
    bf16: bool = False
    checkpoint_steps: int = 200
    work: Path | None = None  # folder for checkpoints; none keeps no checkpoint
    rates: Mapping[str, float] = MappingProxyType({})  # start of a parameter's name -> factor on its learning rate


class Companion(Protocol):
    """State that follows the weights without being trained, such as their moving average."""

    def update(self, steps: int) -> None:
        """Called behind every step with the number of steps done."""

    def tensors(self) -> dict[str, Tensor]:
        """What checkpoints and the best weights keep with them; loading copies into these."""


class Position(NamedTuple):
    """How far a training is: `step` batches of `epoch` are done."""

    epoch: int
    step: int
    total_steps: int
    first: float  # the score before the first epoch
    best: float
    best_epoch: int


def bf16_is_native(device: torch.device) -> bool:
    """Whether bfloat16 products are a gain on this device, not an emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def learning_rate(config: TrainingConfig, progress: float) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak. `progress` is the share of the training done, 0..1."""
    if progress < config.warmup:
        return config.lr * (0.02 + 0.98 * progress / config.warmup)
    rest = (progress - config.warmup) / max(1 - config.warmup, 1e-9)
    return config.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0))))


class Trainer:
    """Trains the parameters of `module` that require gradients, and leaves the best ones in it.

    Args:
        module: takes a batch's tensors, and gives losses with `mean()`, a tensor, and `parts()`, further values to log.
        batches: epoch -> its batches, tuples of tensors, the same list at every call.
        validate: the score to keep the best weights by (higher is better), called before the first epoch and after
            every `validate_every`; none keeps the last weights.
        companion: travels with the weights.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Callable[[int], Sequence[tuple[Tensor, ...]]],
        config: TrainingConfig,
        *,
        settings: Settings,
        validate: Callable[[], float] | None = None,
        tracker: Tracker | None = None,
        companion: Companion | None = None,
    ) -> None:
        self._accelerator = Accelerator()
        self._config, self._settings, self._batches, self._validate = config, settings, batches, validate
        self._tracker = tracker or NullTracker()
        self._module, self._companion = module, companion
        self._named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(self._groups(), lr=config.lr, betas=(0.9, 0.98))
        self._prepared: Any = self._accelerator.prepare(module)
        self._best: dict[str, Tensor] = {}

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate, and by whether they decay."""
        groups: list[dict[str, Any]] = []
        rates = self._settings.rates
        for start in ("", *rates):
            members = [p for n, p in self._named.items() if next((r for r in rates if n.startswith(r)), "") == start]
            for decay, chosen in (
                (self._config.weight_decay, [p for p in members if p.ndim > 1]),
                (0.0, [p for p in members if p.ndim <= 1]),
            ):
                groups.append({"params": chosen, "weight_decay": decay, "rate": rates.get(start, 1.0)})
        return groups

    def run(self) -> Position:
        """Train to the end (from the last checkpoint, if there is one) and put the best weights in place."""
        position = self._resume() or Position(0, 0, 0, -math.inf, -math.inf, 0)
        if position.total_steps == 0 and self._validate is not None:
            position = self._keep_if_best(position)
            position = position._replace(first=position.best)
        while position.epoch < self._config.epochs:
            position = self._epoch(position)
        if self._validate is not None:
            self._load(self._best)
        self._module.eval()
        return position

    def _epoch(self, position: Position) -> Position:
        batches = self._batches(position.epoch)
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        steps = len(batches) // world  # every process takes as many
        label = f"{self._settings.name} epoch {position.epoch + 1}/{self._config.epochs}"
        for step in self._tracker.track(range(position.step, steps), label, steps - position.step):
            progress = (position.epoch + step / steps) / self._config.epochs
            values = self._step(
                batches[step * world + rank], learning_rate(self._config, progress), position.total_steps
            )
            position = position._replace(step=step + 1, total_steps=position.total_steps + 1)
            if position.total_steps % _LOG_EVERY == 0:
                self._log(values, position)
            if position.total_steps % self._settings.checkpoint_steps == 0:
                self._checkpoint(position)
        position = position._replace(epoch=position.epoch + 1, step=0)
        due = position.epoch % self._config.validate_every == 0 or position.epoch == self._config.epochs
        if self._validate is not None and due:
            position = self._keep_if_best(position)
        self._checkpoint(position)
        return position

    def _step(self, batch: tuple[Tensor, ...], lr: float, index: int) -> dict[str, float]:
        self._prepared.train()
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        device = self._accelerator.device
        rank_seed = self._settings.seed + 7919 * self._accelerator.process_index  # unlike dropout on every process
        with seeded(rank_seed, index), torch.autocast(device.type, torch.bfloat16, enabled=self._settings.bf16):
            losses = self._prepared(*(tensor.to(device) for tensor in batch))
        loss = losses.mean()
        self._optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        nn.utils.clip_grad_norm_(list(self._named.values()), self._config.clip)
        self._optimizer.step()
        if self._companion is not None:
            self._companion.update(index + 1)
        return {"loss": float(loss.detach()), **losses.parts()}

    def _keep_if_best(self, position: Position) -> Position:
        assert self._validate is not None
        self._module.eval()
        score = self._validate()
        self._log({"validation_ndcg@10": score}, position)
        if score <= position.best:
            return position
        self._best = {n: p.detach().clone() for n, p in self._state().items()}
        return position._replace(best=float(score), best_epoch=position.epoch)

    def _log(self, values: dict[str, float], position: Position) -> None:
        if self._accelerator.is_main_process:
            named = {f"{self._settings.name}/{key}": value for key, value in values.items()}
            self._tracker.log(named, step=position.total_steps)

    def _state(self) -> dict[str, Tensor]:
        """All tensors that make up the weights, by name."""
        own: dict[str, Tensor] = dict(self._named)
        return own if self._companion is None else own | prefixed("companion", self._companion.tensors())

    def _checkpoint(self, position: Position) -> None:
        if self._settings.work is None or not self._accelerator.is_main_process:
            return
        tensors = prefixed("model", self._state()) | prefixed("best", self._best)
        save_checkpoint(self._settings.work, tensors | optimizer_tensors(self._optimizer), position._asdict())

    def _resume(self) -> Position | None:
        saved = None if self._settings.work is None else load_checkpoint(self._settings.work)
        if saved is None:
            return None
        self._load(unprefixed("model", saved.tensors))
        self._best = unprefixed("best", saved.tensors)
        load_optimizer(self._optimizer, saved.tensors)
        return Position(**saved.meta)

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor]) -> None:
        state = self._state()
        for name, value in weights.items():
            state[name].copy_(value.to(state[name].device))
