"""Training an RQ-VAE: k-means start, AdamW, dead codes revived every epoch, resumable at any moment.

Reads standardised vectors; writes checkpoints into the work folder where one is given. All randomness comes from
`step_generator(seed, epoch)`, so that a killed and resumed run repeats an uninterrupted one bit for bit.
"""

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F

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
from recsys.tokenization.kmeans import kmeans
from recsys.tokenization.rqvae import RqVae, Transport
from recsys.tracking import Tracker

_KMEANS_SAMPLE = 65_536
_STEPS_PER_CHECKPOINT = 50


def train_rqvae(
    vectors: torch.Tensor, config: TokenizeConfig, *, seed: int, work: Path | None, tracker: Tracker
) -> RqVae:
    """An `RqVae` fitted to standardised vectors [N, D], in evaluation mode."""
    trainer = _Trainer(vectors, config, seed)
    start = trainer.resume(work) if work is not None else 0
    if start == 0:
        trainer.start_codebooks()
    every = max(1, _STEPS_PER_CHECKPOINT * config.batch // max(len(vectors), config.batch))
    for epoch in tracker.track(range(start, config.epochs), "tokenizer epochs", config.epochs - start):
        tracker.log(trainer.epoch(epoch), step=epoch + 1)
        if work is not None and ((epoch + 1) % every == 0 or epoch + 1 == config.epochs):
            trainer.checkpoint(work, epoch + 1)
    return trainer.model.eval()


class _Trainer:
    def __init__(self, vectors: torch.Tensor, config: TokenizeConfig, seed: int) -> None:
        self.vectors, self.config, self.seed = vectors, config, seed
        with seeded(seed, 0):
            self.model = RqVae(
                vectors.shape[1],
                levels=config.levels,
                codes=config.codes,
                latent_dim=config.latent_dim,
                hidden=config.hidden,
            )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        described = f"{config.model_dump_json()} {seed} {tuple(vectors.shape)}"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the items in an order of its own; the mean losses, and how many codes were revived."""
        generator = step_generator(self.seed, epoch + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * epoch / self.config.epochs)) / 2
        batches = torch.split(torch.randperm(len(self.vectors), generator=generator), self.config.batch)
        used = torch.zeros(self.config.levels, self.config.codes, dtype=torch.bool)
        reconstruction = quantization = 0.0
        for batch in batches:
            losses = self._step(self.vectors[batch], used)
            reconstruction += losses[0] * len(batch) / len(self.vectors)
            quantization += losses[1] * len(batch) / len(self.vectors)
        revived = self._revive(used, generator) if epoch + 1 < self.config.epochs else 0
        return {
            "tokenize/reconstruction": reconstruction,
            "tokenize/quantization": quantization,
            "tokenize/codes_revived": float(revived),
        }

    def _step(self, batch: torch.Tensor, used: torch.Tensor) -> tuple[float, float]:
        config = self.config
        transport = Transport(config.sinkhorn_epsilon, config.sinkhorn_iterations)
        levelled = transport if config.sinkhorn_iterations else None
        quantized = self.model.quantize(self.model.encoder(batch), transport=levelled)
        reconstruction = F.mse_loss(self.model.decoder(quantized.latent), batch)
        quantization = quantized.codebook_loss + config.commitment * quantized.commitment_loss
        self.optimizer.zero_grad(set_to_none=True)
        (reconstruction + quantization).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        used.scatter_(1, quantized.codes.T, True)
        return reconstruction.item(), quantization.item()

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """Every level's codebook starts from k-means over what the levels before leave."""
        generator = step_generator(self.seed, 0)
        self.model.start_linear(self._sample(generator, _KMEANS_SAMPLE))
        residual = self.model.encoder(self._sample(generator, _KMEANS_SAMPLE))
        for codebook in self.model.codebooks:
            codebook.copy_(kmeans(residual, self.config.codes, generator=generator))
            residual = residual - codebook[torch.cdist(residual, codebook).argmin(dim=1)]

    @torch.no_grad()
    def _revive(self, used: torch.Tensor, generator: torch.Generator) -> int:
        """Move codes that no item chose in an epoch onto random items' residuals; how many were moved."""
        dead = ~used
        if not dead.any():
            return 0
        residual = self.model.encoder(self._sample(generator, 4 * self.config.codes))
        state = self.optimizer.state[self.model.codebooks]
        for level, codebook in enumerate(self.model.codebooks):
            nearest = torch.cdist(residual, codebook).argmin(dim=1)
            rows = torch.nonzero(dead[level]).squeeze(1)
            codebook[rows] = residual[torch.randint(len(residual), (len(rows),), generator=generator)]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment][level, rows] = 0
            residual = residual - codebook[nearest]
        return int(dead.sum())

    def _sample(self, generator: torch.Generator, size: int) -> torch.Tensor:
        return self.vectors[torch.randperm(len(self.vectors), generator=generator)[:size]]

    def checkpoint(self, work: Path, epochs_done: int) -> None:
        tensors = prefixed("model", self.model.state_dict()) | optimizer_tensors(self.optimizer)
        save_checkpoint(work, tensors, {"epochs_done": epochs_done, "fingerprint": self.fingerprint})

    def resume(self, work: Path) -> int:
        """Epochs already done by a run of the same configuration, seed and shape; its state is taken over."""
        found = load_checkpoint(work)
        if found is None or found.meta.get("fingerprint") != self.fingerprint:
            return 0
        self.model.load_state_dict(unprefixed("model", found.tensors))
        load_optimizer(self.optimizer, found.tensors)
        return int(found.meta["epochs_done"])
