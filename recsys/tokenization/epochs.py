"""What the trainings of both tokenizers share: epochs over all items, AdamW along a cosine, resumable at any moment.

Writes checkpoints into the work folder where one is given. All randomness comes from `step_generator(seed, epoch)`, so
that a killed and resumed run repeats an uninterrupted one bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn

from recsys.checkpoints import (
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prefixed,
    save_checkpoint,
    seeded,
    step_generator,
    unprefixed,
)
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tracking import Tracker

_STEPS_PER_CHECKPOINT = 50

ModelT = TypeVar("ModelT", bound=nn.Module)
ConfigT = TypeVar("ConfigT", TokenizeConfig, ContinuousConfig)


class Loss(NamedTuple):
    """What a step lowers, and the parts of it that are logged."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class EpochTrainer(ABC, Generic[ModelT, ConfigT]):
    """Fits a model to vectors [N, D].

    Args:
        build: an untrained model, initialised under the seed.
        name: heads the names of what is logged.
    """

    def __init__(
        self, vectors: torch.Tensor, config: ConfigT, *, seed: int, build: Callable[[], ModelT], name: str
    ) -> None:
        self.config: ConfigT = config
        self.vectors, self.seed, self.name = vectors, seed, name
        with seeded(seed, 0):
            self.model = build()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        digest = hashlib.sha256(f"{config.model_dump_json()} {seed} {tuple(vectors.shape)} ".encode())
        digest.update(vectors.contiguous().numpy().data)
        self._fingerprint = digest.hexdigest()

    @abstractmethod
    def loss(self, batch: torch.Tensor, generator: torch.Generator) -> Loss:
        """Of a batch [B, D] of the vectors."""

    def begin(self) -> None:
        """What a training does first, and one that is resumed does not do again."""

    def end_epoch(self, generator: torch.Generator, *, last: bool) -> dict[str, float]:
        """What follows on an epoch's steps; figures to be logged with its losses."""
        return {}

    def train(self, work: Path | None, tracker: Tracker) -> ModelT:
        """The fitted model, in evaluation mode."""
        config = self.config
        start = self._resume(work) if work is not None else 0
        if start == 0:
            self.begin()
        every = max(1, _STEPS_PER_CHECKPOINT * config.batch // max(len(self.vectors), config.batch))
        for epoch in tracker.track(range(start, config.epochs), f"{self.name} epochs", config.epochs - start):
            figures = self._epoch(epoch)
            tracker.log({f"{self.name}/{name}": value for name, value in figures.items()}, step=epoch + 1)
            if work is not None and ((epoch + 1) % every == 0 or epoch + 1 == config.epochs):
                self._checkpoint(work, epoch + 1)
        return self.model.eval()

    def _epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the items in an order of its own; the mean losses."""
        self.model.train()
        generator = step_generator(self.seed, epoch + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * epoch / self.config.epochs)) / 2
        means: dict[str, float] = {}
        for batch in torch.split(torch.randperm(len(self.vectors), generator=generator), self.config.batch):
            loss = self.loss(self.vectors[batch], generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            for name, value in loss.parts.items():
                means[name] = means.get(name, 0.0) + value.item() * len(batch) / len(self.vectors)
        return means | self.end_epoch(generator, last=epoch + 1 == self.config.epochs)

    def _checkpoint(self, work: Path, epochs_done: int) -> None:
        tensors = prefixed("model", self.model.state_dict()) | optimizer_tensors(self.optimizer)
        save_checkpoint(work, tensors, {"epochs_done": epochs_done, "fingerprint": self._fingerprint})

    def _resume(self, work: Path) -> int:
        """Epochs already done by a run of the same vectors, configuration and seed; its state is taken over."""
        found = load_checkpoint(work)
        if found is None or found.meta.get("fingerprint") != self._fingerprint:
            return 0
        self.model.load_state_dict(unprefixed("model", found.tensors))
        load_optimizer(self.optimizer, found.tensors)
        return int(found.meta["epochs_done"])
