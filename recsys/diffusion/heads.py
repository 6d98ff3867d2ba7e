"""The plain heads that the diffusion head must beat: one query a user, by regression or by cross-entropy.

Both are the denoiser's residual blocks without noise, time and modulation, trained by the same loop on the same
conditions. Writes and reads `regression` or `cross_entropy` `.safetensors` and `.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.baselines.sasrec_training import SoftmaxLoss
from recsys.checkpoints import seeded
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import block_layers, normalised
from recsys.diffusion.loss import Losses
from recsys.diffusion.preference import default_device
from recsys.diffusion.storage import load_module, save_module
from recsys.diffusion.training import Run, checked_rows, fit
from recsys.tables import FloatArray, IntArray

Kind = Literal["regression", "cross_entropy"]
KINDS: tuple[Kind, ...] = ("regression", "cross_entropy")
_CHUNK = 4096


class Trunk(nn.Module):
    """Conditions [B, d_h] -> queries [B, D]."""

    def __init__(self, condition_dim: int, latent_dim: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(condition_dim, eps=1e-6)
        self.enter = nn.Linear(condition_dim, hidden_size)
        self.blocks = nn.ModuleList(block_layers(hidden_size) for _ in range(num_layers))
        self.leave = nn.Linear(hidden_size, latent_dim)

    def forward(self, conditions: Tensor) -> Tensor:
        x = self.enter(self.norm(conditions))
        for layers in self.blocks:
            x = x + layers(normalised(x))
        queries: Tensor = self.leave(normalised(x))
        return queries


class RegressionLoss(nn.Module):
    """Squared error of the query to the target's latent."""

    latents: Tensor

    def __init__(self, trunk: Trunk, latents: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("latents", latents, persistent=False)

    def forward(self, conditions: Tensor, targets: Tensor) -> Losses:
        error = F.mse_loss(self.trunk(conditions).float(), self.latents[targets])
        return Losses(error, error.new_zeros(()))


class CrossEntropyLoss(RegressionLoss):
    """Softmax over all items of inner products with their latents, over sqrt(D) (SETRec-like, arXiv 2502.10833)."""

    def forward(self, conditions: Tensor, targets: Tensor) -> Losses:
        queries = self.trunk(conditions).float() / self.latents.shape[1] ** 0.5
        with torch.autocast(queries.device.type, enabled=False):
            loss: Tensor = SoftmaxLoss.apply(queries, self.latents, targets)  # type: ignore[no-untyped-call]
        return Losses(loss, loss.new_zeros(()))


LOSSES: dict[Kind, type[RegressionLoss]] = {"regression": RegressionLoss, "cross_entropy": CrossEntropyLoss}


@dataclass(frozen=True, repr=False)
class QueryHead:
    """A trained plain head; `kind` says how its queries rank: by nearness, or by inner product."""

    trunk: Trunk
    kind: Kind
    config: DiffuseConfig

    def __repr__(self) -> str:
        return f"<QueryHead ({self.kind}, {self.trunk.enter.in_features} -> {self.trunk.leave.out_features})>"

    @torch.inference_mode()
    def predict(self, conditions: FloatArray) -> FloatArray:
        """Queries [B, D] of conditions [B, d_h]."""
        parts = torch.split(torch.from_numpy(conditions).to(self.trunk.enter.weight.device), _CHUNK)
        queries: FloatArray = torch.cat([self.trunk(part) for part in parts]).cpu().numpy()
        return queries

    def scores(self, conditions: FloatArray, latents: FloatArray) -> FloatArray:
        """Higher is better, [B, N] over item latents [N, D]: logits, or negative squared distances."""
        queries = self.predict(conditions)
        products: FloatArray = queries @ latents.T
        if self.kind == "cross_entropy":
            return products / np.float32(latents.shape[1] ** 0.5)
        squares: FloatArray = np.square(queries).sum(axis=1)[:, None] + np.square(latents).sum(axis=1)
        return 2 * products - squares

    def save(self, folder: Path) -> None:
        """Write `KIND.safetensors` and `KIND.json` into `folder`, which is created."""
        shape = {"condition_dim": self.trunk.enter.in_features, "latent_dim": self.trunk.leave.out_features}
        save_module(folder, self.kind, self.trunk, shape=shape, config=self.config)

    @classmethod
    def load(cls, folder: Path, kind: Kind) -> Self:
        """What `save` wrote, on the GPU where there is one.

        Raises:
            ArtifactError: a file is missing, damaged or of another version, or the two do not fit.
        """

        def build(shape: dict[str, int], config: DiffuseConfig) -> Trunk:
            return Trunk(**shape, hidden_size=config.hidden_size, num_layers=config.num_layers)

        trunk, config = load_module(folder, kind, build)
        return cls(trunk.to(default_device()), kind, config)


def fit_head(
    kind: Kind,
    conditions: FloatArray,
    targets: IntArray,
    latents: FloatArray,
    config: DiffuseConfig,
    *,
    run: Run,
    validate: Callable[[QueryHead], float] | None = None,
) -> QueryHead:
    """A plain head on the same conditions; arguments and errors as `fit_preference` has them.

    Args:
        kind: `regression` predicts the mean of the next item's latent, `cross_entropy` classifies over item latents.
        run: the name of its metrics, the seed, and where checkpoints and metrics go.
    """
    rows = checked_rows(conditions, targets, latents)
    with seeded(run.seed, 0):
        trunk = Trunk(*rows.widths, hidden_size=config.hidden_size, num_layers=config.num_layers)
    head = QueryHead(trunk, kind, config)
    module = LOSSES[kind](trunk, torch.from_numpy(rows.latents)).to(default_device())
    fit(module, rows, config, run=run, validate=None if validate is None else partial(validate, head))
    return head
