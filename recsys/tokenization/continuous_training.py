"""Training a sigma-VAE on whitened vectors; how epochs go and resume is in `epochs`."""

from pathlib import Path

import torch

from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.epochs import EpochTrainer, Loss
from recsys.tokenization.sigma_vae import SigmaVae
from recsys.tracking import Tracker


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
    trainer = _Trainer(x, config, seed=seed, build=lambda: build(x.shape[1], config), name="continuous")
    return trainer.train(work, tracker)


class _Trainer(EpochTrainer[SigmaVae, ContinuousConfig]):
    def loss(self, batch: torch.Tensor, generator: torch.Generator) -> Loss:
        config, losses = self.config, self.model.losses(batch, generator)
        total = losses.reconstruction + config.kl_weight * losses.kl + config.decorrelation_weight * losses.similarity
        return Loss(total, losses._asdict())
