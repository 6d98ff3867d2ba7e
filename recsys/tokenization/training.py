"""Training of both tokenizers' networks: epochs over all items, AdamW along a cosine, on the CPU.

The RQ-VAE's codebooks start from k-means, and its dead codes are revived every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.kmeans import kmeans
from recsys.tokenization.rqvae import RqVae, Transport
from recsys.tokenization.sigma_vae import SigmaVae
from recsys.training.checkpoints import Fingerprint
from recsys.training.plan import Callbacks, Loss, Plan, Run
from recsys.training.seeding import seeded, step_generator
from recsys.training.trainer import Trainer

_KMEANS_SAMPLE = 65_536


def build_rqvae(num_features: int, config: TokenizeConfig) -> RqVae:
    """An untrained network for standardised vectors of `num_features` columns."""
    return RqVae(
        num_features,
        levels=config.num_levels,
        codes=config.codebook_size,
        latent_dim=config.latent_dim,
        hidden=config.hidden_sizes,
    )


def build_sigma_vae(num_features: int, config: ContinuousConfig) -> SigmaVae:
    """An untrained network for whitened vectors of `num_features` columns."""
    return SigmaVae(
        num_features,
        tokens=config.num_tokens,
        token_dim=config.token_dim,
        hidden=config.hidden_sizes,
        sigma=config.sigma,
        mask_rate=config.mask_rate,
    )


def train_rqvae(vectors: Tensor, config: TokenizeConfig, *, run: Run) -> RqVae:
    """An `RqVae` fitted to standardised vectors [N, D], in evaluation mode."""
    with seeded(run.seed, 0):
        model = build_rqvae(vectors.shape[1], config)
    _train(_RqVaeLoss(model, vectors, config, run.seed), config, run)
    return model


def train_sigma_vae(vectors: Tensor, config: ContinuousConfig, *, run: Run) -> SigmaVae:
    """A `SigmaVae` fitted to whitened vectors [N, D], in evaluation mode."""
    with seeded(run.seed, 0):
        model = build_sigma_vae(vectors.shape[1], config)
    _train(_SigmaVaeLoss(model, vectors, config, run.seed), config, run)
    return model


def _train(module: _ItemLoss, config: TokenizeConfig | ContinuousConfig, run: Run) -> None:
    plan = Plan(config.epochs, config.learning_rate, config.weight_decay, final_ratio=0, anneal_by_epoch=True)
    fingerprint = Fingerprint.of(run.name, run.seed, config, module.vectors)
    Trainer(module, module.batches, plan, run=run, fingerprint=fingerprint, callbacks=module).train()


class _ItemLoss(nn.Module, Callbacks):
    """Vectors [N, D] and an epoch's generator, which orders the items and is drawn from in every step."""

    def __init__(self, vectors: Tensor, batch_size: int, seed: int) -> None:
        super().__init__()
        self.vectors, self.seed, self._batch_size = vectors, seed, batch_size
        self.generator = step_generator(seed, 0)

    def batches(self, epoch: int) -> list[tuple[Tensor, ...]]:
        self.generator = step_generator(self.seed, epoch + 1)
        order = torch.randperm(len(self.vectors), generator=self.generator)
        return [(rows,) for rows in self._split(order)]

    def _split(self, order: Tensor) -> Sequence[Tensor]:
        return torch.split(order, self._batch_size)


class _SigmaVaeLoss(_ItemLoss):
    def __init__(self, model: SigmaVae, vectors: Tensor, config: ContinuousConfig, seed: int) -> None:
        super().__init__(vectors, config.batch_size, seed)
        self.model, self.config = model, config

    def forward(self, rows: Tensor) -> Loss:
        config, losses = self.config, self.model.losses(self.vectors[rows], self.generator)
        total = losses.reconstruction + config.kl_weight * losses.kl + config.decorrelation_weight * losses.similarity
        return Loss(total, losses._asdict(), len(rows))


class _RqVaeLoss(_ItemLoss):
    def __init__(self, model: RqVae, vectors: Tensor, config: TokenizeConfig, seed: int) -> None:
        super().__init__(vectors, config.batch_size, seed)
        self.model, self.config = model, config
        transport = Transport(config.sinkhorn_epsilon, config.sinkhorn_iterations)
        self._transport = transport if config.sinkhorn_iterations else None
        self._used = self._none_used()

    def _split(self, order: Tensor) -> Sequence[Tensor]:
        """The last batch takes in what is left over: the transport plan of a few items is near chance."""
        starts = range(self._batch_size, len(order) - self._batch_size + 1, self._batch_size)
        return torch.tensor_split(order, list(starts))

    def _none_used(self) -> Tensor:
        return torch.zeros(self.config.num_levels, self.config.codebook_size, dtype=torch.bool)

    def forward(self, rows: Tensor) -> Loss:
        vectors = self.vectors[rows]
        quantized = self.model.quantize(self.model.encoder(vectors), transport=self._transport)
        self._used.scatter_(1, quantized.codes.T, True)
        reconstruction = F.mse_loss(self.model.decoder(quantized.latent), vectors)
        quantization = quantized.codebook_loss + self.config.commitment_weight * quantized.commitment_loss
        values = {"reconstruction": reconstruction, "quantization": quantization}
        return Loss(reconstruction + quantization, values, len(rows))

    @torch.no_grad()
    def on_start(self) -> None:
        """Every level's codebook starts from k-means over the residuals of the levels before."""
        self.model.start_linear(self._sample(_KMEANS_SAMPLE))
        residual = self.model.encoder(self._sample(_KMEANS_SAMPLE))
        for codebook in self.model.codebooks:
            codebook.copy_(kmeans(residual, self.config.codebook_size, generator=self.generator))
            residual = residual - codebook[torch.cdist(residual, codebook).argmin(dim=1)]

    def on_epoch_end(self, optimizer: torch.optim.Optimizer, *, last: bool) -> Mapping[str, float]:
        """Revive the codes that no item chose, except after the last epoch; returns how many."""
        dead, self._used = ~self._used, self._none_used()
        return {"codes_revived": float(0 if last else self._revive(dead, optimizer.state[self.model.codebooks]))}

    @torch.no_grad()
    def _revive(self, dead: Tensor, state: Mapping[str, Tensor]) -> int:
        """Move dead codes [L, K] onto random items' residuals and reset their moments; returns how many were moved."""
        if not dead.any():
            return 0
        residual = self.model.encoder(self._sample(4 * self.config.codebook_size))
        for level, codebook in enumerate(self.model.codebooks):
            nearest = torch.cdist(residual, codebook).argmin(dim=1)
            rows = torch.nonzero(dead[level]).squeeze(1)
            codebook[rows] = residual[torch.randint(len(residual), (len(rows),), generator=self.generator)]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment][level, rows] = 0
            residual = residual - codebook[nearest]
        return int(dead.sum())

    def _sample(self, size: int) -> Tensor:
        return self.vectors[torch.randperm(len(self.vectors), generator=self.generator)[:size]]
