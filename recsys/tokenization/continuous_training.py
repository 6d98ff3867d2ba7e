"""Training a sigma-VAE: AdamW along a cosine, resumable at any moment.

Reads whitened vectors; writes checkpoints into the work folder where one is given. All randomness comes from
`step_generator(seed, epoch)`, so that a killed and resumed run repeats an uninterrupted one bit for bit.
"""

import hashlib
import math
from pathlib import Path

import torch

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
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.sigma_vae import Losses, SigmaVae
from recsys.tracking import Tracker

_STEPS_PER_CHECKPOINT = 50


def build(num_features: int, config: ContinuousConfig) -> SigmaVae:
    """An untrained network for whitened vectors of `num_features` columns."""
    return SigmaVae(
        num_features,
        tokens=config.tokens,
        token_dim=config.token_dim,
        hidden=config.hidden,
        sigma=config.sigma,
        mask_rate=config.mask_rate,
    )


def train_sigma_vae(
    x: torch.Tensor, config: ContinuousConfig, *, seed: int, work: Path | None, tracker: Tracker
) -> SigmaVae:
    """A `SigmaVae` fitted to whitened vectors [N, D], in evaluation mode."""
    trainer = _Trainer(x, config, seed)
    start = trainer.resume(work) if work is not None else 0
    every = max(1, _STEPS_PER_CHECKPOINT * config.batch // max(len(x), config.batch))
    for epoch in tracker.track(range(start, config.epochs), "continuous tokens, epochs", config.epochs - start):
        losses = trainer.epoch(epoch)
        tracker.log({f"continuous/{name}": value for name, value in losses.items()}, step=epoch + 1)
        if work is not None and ((epoch + 1) % every == 0 or epoch + 1 == config.epochs):
            trainer.checkpoint(work, epoch + 1)
    return trainer.model.eval()


class _Trainer:
    def __init__(self, x: torch.Tensor, config: ContinuousConfig, seed: int) -> None:
        self.x, self.config, self.seed = x, config, seed
        with seeded(seed, 0):
            self.model = build(x.shape[1], config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        digest = hashlib.sha256(f"{config.model_dump_json()} {seed} {tuple(x.shape)} ".encode())
        digest.update(x.numpy().data)
        self.fingerprint = digest.hexdigest()

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the items in an order of its own; the mean losses."""
        self.model.train()
        generator = step_generator(self.seed, epoch + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * epoch / self.config.epochs)) / 2
        total = torch.zeros(len(Losses._fields))
        for batch in torch.split(torch.randperm(len(self.x), generator=generator), self.config.batch):
            losses = self.model.losses(self.x[batch], generator)
            self._step(losses)
            total += torch.stack(losses).detach() * len(batch) / len(self.x)
        return dict(zip(Losses._fields, total.tolist(), strict=True))

    def _step(self, losses: Losses) -> None:
        config = self.config
        loss = losses.reconstruction + config.kl_weight * losses.kl + config.decorrelation_weight * losses.similarity
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def checkpoint(self, work: Path, epochs_done: int) -> None:
        tensors = prefixed("model", self.model.state_dict()) | optimizer_tensors(self.optimizer)
        save_checkpoint(work, tensors, {"epochs_done": epochs_done, "fingerprint": self.fingerprint})

    def resume(self, work: Path) -> int:
        """Epochs already done by a run of the same vectors, configuration and seed; its state is taken over."""
        found = load_checkpoint(work)
        if found is None or found.meta.get("fingerprint") != self.fingerprint:
            return 0
        self.model.load_state_dict(unprefixed("model", found.tensors))
        load_optimizer(self.optimizer, found.tensors)
        return int(found.meta["epochs_done"])
