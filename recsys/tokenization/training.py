"""Training an RQ-VAE on standardised vectors: k-means start, dead codes revived every epoch.

How epochs go and resume is in `epochs`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from recsys.checkpoints import step_generator
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.epochs import EpochTrainer, Loss
from recsys.tokenization.kmeans import kmeans
from recsys.tokenization.rqvae import RqVae, Transport
from recsys.tracking import Tracker

_KMEANS_SAMPLE = 65_536


def train_rqvae(
    vectors: torch.Tensor, config: TokenizeConfig, *, seed: int, work: Path | None, tracker: Tracker
) -> RqVae:
    """An `RqVae` fitted to standardised vectors [N, D], in evaluation mode."""

    def build() -> RqVae:
        return RqVae(
            vectors.shape[1],
            levels=config.levels,
            codes=config.codes,
            latent_dim=config.latent_dim,
            hidden=config.hidden,
        )

    return _Trainer(vectors, config, seed=seed, build=build).train(work, tracker)


class _Trainer(EpochTrainer[RqVae, TokenizeConfig]):
    def __init__(self, vectors: torch.Tensor, config: TokenizeConfig, *, seed: int, build: Callable[[], RqVae]) -> None:
        super().__init__(vectors, config, seed=seed, build=build, name="tokenize")
        self._used = self._none_used()

    def _none_used(self) -> torch.Tensor:
        return torch.zeros(self.config.levels, self.config.codes, dtype=torch.bool)

    def loss(self, batch: torch.Tensor, generator: torch.Generator) -> Loss:
        config = self.config
        transport = Transport(config.sinkhorn_epsilon, config.sinkhorn_iterations)
        levelled = transport if config.sinkhorn_iterations else None
        quantized = self.model.quantize(self.model.encoder(batch), transport=levelled)
        self._used.scatter_(1, quantized.codes.T, True)
        reconstruction = F.mse_loss(self.model.decoder(quantized.latent), batch)
        quantization = quantized.codebook_loss + config.commitment * quantized.commitment_loss
        return Loss(reconstruction + quantization, {"reconstruction": reconstruction, "quantization": quantization})

    @torch.no_grad()
    def begin(self) -> None:
        """Every level's codebook starts from k-means over what the levels before leave."""
        generator = step_generator(self.seed, 0)
        self.model.start_linear(self._sample(generator, _KMEANS_SAMPLE))
        residual = self.model.encoder(self._sample(generator, _KMEANS_SAMPLE))
        for codebook in self.model.codebooks:
            codebook.copy_(kmeans(residual, self.config.codes, generator=generator))
            residual = residual - codebook[torch.cdist(residual, codebook).argmin(dim=1)]

    def end_epoch(self, generator: torch.Generator, *, last: bool) -> dict[str, float]:
        """Codes that no item chose are revived, but for the last time; how many were."""
        dead, self._used = ~self._used, self._none_used()
        return {"codes_revived": float(0 if last else self._revive(dead, generator))}

    @torch.no_grad()
    def _revive(self, dead: torch.Tensor, generator: torch.Generator) -> int:
        """Move dead codes [L, K] onto random items' residuals; how many were moved."""
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
