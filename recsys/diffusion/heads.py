"""The plain heads that the diffusion head is compared with: one query a user, by regression or by cross-entropy.

Both are the denoiser's residual blocks without noise, time and modulation, trained on the same conditions. Writes and
reads `regression` or `cross_entropy` `.safetensors` and `.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import layer_norm, two_layers
from recsys.diffusion.loss import Losses, mean_square
from recsys.diffusion.training import fit, training_rows
from recsys.tables import FloatArray, IntArray
from recsys.training.devices import default_device
from recsys.training.ema import MovingAverage
from recsys.training.modules import Kind as ModuleKind
from recsys.training.modules import Saved, load_module, save_module
from recsys.training.plan import Progress, Run
from recsys.training.seeding import seeded
from recsys.training.softmax import softmax_loss

Kind = Literal["regression", "cross_entropy"]
KINDS: tuple[Kind, ...] = ("regression", "cross_entropy")
_BATCH_SIZE = 4096  # of prediction


class QueryMlp(nn.Module):
    """A residual MLP: conditions [B, d_h] -> queries [B, D]."""

    def __init__(self, condition_dim: int, latent_dim: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.condition_norm = nn.RMSNorm(condition_dim, eps=1e-6)
        self.input_projection = nn.Linear(condition_dim, hidden_size)
        self.blocks = nn.ModuleList(two_layers(hidden_size, hidden_size) for _ in range(num_layers))
        self.output_projection = nn.Linear(hidden_size, latent_dim)

    @property
    def condition_dim(self) -> int:
        return self.input_projection.in_features

    @property
    def latent_dim(self) -> int:
        return self.output_projection.out_features

    def forward(self, conditions: Tensor) -> Tensor:
        x = self.input_projection(self.condition_norm(conditions))
        for branch in self.blocks:
            x = x + branch(layer_norm(x))
        queries: Tensor = self.output_projection(layer_norm(x))
        return queries


class RegressionLoss(nn.Module):
    """Squared error of the query to the target's latent; weights [B] are factors of the errors."""

    latents: Tensor

    def __init__(self, model: QueryMlp, latents: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("latents", latents, persistent=False)

    def forward(self, conditions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Losses:
        error = mean_square(self.model(conditions).float(), self.latents[targets], weights)
        return Losses(error, error.new_zeros(()))


class CrossEntropyLoss(RegressionLoss):
    """Softmax over all items of inner products with their latents, over sqrt(D) (SETRec-like, arXiv 2502.10833)."""

    def forward(self, conditions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Losses:
        queries = self.model(conditions).float() / self.latents.shape[1] ** 0.5
        with torch.autocast(queries.device.type, enabled=False):
            loss: Tensor = softmax_loss(queries, self.latents, targets, weights=weights)
        return Losses(loss, loss.new_zeros(()))


LOSSES: dict[Kind, type[RegressionLoss]] = {"regression": RegressionLoss, "cross_entropy": CrossEntropyLoss}


@dataclass(frozen=True, repr=False)
class QueryHead:
    """A trained plain head, which ranks items by distance (`regression`) or by inner product (`cross_entropy`)."""

    model: QueryMlp
    kind: Kind
    config: DiffuseConfig
    progress: Progress | None = None  # how its training ended; None once loaded

    def __repr__(self) -> str:
        return f"<QueryHead ({self.kind}, {self.model.condition_dim} -> {self.model.latent_dim})>"

    @torch.inference_mode()
    def predict(self, conditions: FloatArray) -> FloatArray:
        """Queries [B, D] of conditions [B, d_h]."""
        batches = torch.split(torch.from_numpy(conditions).to(self.model.input_projection.weight.device), _BATCH_SIZE)
        queries: FloatArray = torch.cat([self.model(batch) for batch in batches]).cpu().numpy()
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
        shape = {"condition_dim": self.model.condition_dim, "latent_dim": self.model.latent_dim}
        save_module(folder, ModuleKind(self.kind, DiffuseConfig, "diffuse"), self.model, Saved(self.config, shape))

    @classmethod
    def load(cls, folder: Path, kind: Kind) -> Self:
        """Read what `save` wrote, onto the GPU if there is one.

        Raises:
            ArtifactError: a file is missing, damaged or of another version, or they do not match.
        """

        def build(saved: Saved[DiffuseConfig]) -> QueryMlp:
            return QueryMlp(**saved.shape, hidden_size=saved.config.hidden_size, num_layers=saved.config.num_layers)

        model, saved = load_module(folder, ModuleKind(kind, DiffuseConfig, "diffuse"), build)
        return cls(model.to(default_device()), kind, saved.config)


def fit_head(
    kind: Kind,
    conditions: FloatArray,
    targets: IntArray,
    latents: FloatArray,
    config: DiffuseConfig,
    *,
    run: Run,
    weights: FloatArray | None = None,
    validate: Callable[[QueryHead], float] | None = None,
) -> QueryHead:
    """Train a plain head on the same conditions; other arguments and errors as in `fit_preference`.

    Args:
        kind: `regression` predicts the mean of the next item's latent, `cross_entropy` is a softmax over item latents.
        run: the name of its metrics, the seed, and where checkpoints and metrics go.
    """
    rows = training_rows(conditions, targets, latents, weights)
    with seeded(run.seed, 0):
        model = QueryMlp(*rows.widths, hidden_size=config.hidden_size, num_layers=config.num_layers)
    module = LOSSES[kind](model, torch.from_numpy(rows.latents)).to(default_device())
    average = MovingAverage(model, config.ema_decay)
    head = QueryHead(average.module, kind, config)
    score = None if validate is None else partial(validate, head)
    progress = fit(module, rows, config, run=run, average=average, validate=score, to_plateau=True)
    return replace(head, progress=progress)
