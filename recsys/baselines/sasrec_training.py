"""Training of SASRec: full-softmax cross-entropy at every position, until validation stops rising.

Item vectors are taken after a fixed number of epochs on the way: they reach the tokenizers, and validation must not.
Takes histories and returns a `Sasrec`; writes checkpoints into `work` where one is given.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.baselines.config import SasrecConfig
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec import Sasrec, SasrecModel
from recsys.data.histories import TrainingSequence, weighted_targets
from recsys.errors import DataError
from recsys.metrics import top_k_metrics
from recsys.tables import CandidateFilter, FloatArray, Histories, IntArray, Queries
from recsys.tracking import Tracker
from recsys.training.checkpoints import Fingerprint
from recsys.training.devices import default_device
from recsys.training.plan import Loss, Plan, Run
from recsys.training.seeding import seeded
from recsys.training.softmax import softmax_loss
from recsys.training.trainer import Trainer


class Batch(NamedTuple):
    items: Tensor  # [B, T] inputs, padded with 0 at the end
    targets: Tensor  # [P] the item after every input that is neither padding nor before an item of weight 0
    mask: Tensor  # bool [B, T], these P inputs
    weights: Tensor | None = None  # float32 [P] of the targets


def training_windows(histories: Histories, max_length: int) -> list[TrainingSequence]:
    """Histories cut into windows of at most `max_length + 1` items, newest window full.

    Neighbouring windows share one item, so every step from an item to the next is learned exactly once. The weight of
    a first item, which is no target of its window, is 0. Windows without a target are left out.

    Raises:
        DataError: none has one, because all weights are 0.
    """
    found = []
    for start, stop in pairwise(histories.indptr.tolist()):
        for end in range(stop, start + 1, -max_length):
            rows = slice(max(start, end - max_length - 1), end)
            weights = None if histories.weights is None else histories.weights[rows].copy()
            if weights is not None:
                weights[0] = 0
            found.append(TrainingSequence(histories.items[rows], weights))
    return weighted_targets(found)


def batches(windows: list[TrainingSequence], batch_tokens: int, rng: np.random.Generator) -> list[IntArray]:
    """One epoch in random order: the windows of each batch, of similar length, at most `batch_tokens` when padded."""
    lengths = np.array([len(window.items) - 1 for window in windows])
    order = np.lexsort((rng.random(len(windows)), lengths))
    starts, width = [0], 0
    for position, window in enumerate(order):
        width = max(width, int(lengths[window]))
        if position > starts[-1] and (position + 1 - starts[-1]) * width > batch_tokens:
            starts.append(position)
            width = int(lengths[window])
    groups = np.split(order, starts[1:])
    return [groups[group] for group in rng.permutation(len(groups))]


def collate(windows: list[TrainingSequence]) -> Batch:
    lengths = np.array([len(window.items) - 1 for window in windows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    items = np.zeros(mask.shape, dtype=np.int64)
    items[mask] = np.concatenate([window.items[:-1] for window in windows])
    targets = np.concatenate([window.items[1:] for window in windows])
    weighted = [window.weights[1:] for window in windows if window.weights is not None]
    weights = None
    if weighted:
        weights = np.concatenate(weighted)
        mask[mask] = weights > 0
        targets, weights = targets[weights > 0], weights[weights > 0]
    factors = None if weights is None else torch.from_numpy(weights)
    return Batch(torch.from_numpy(items), torch.from_numpy(targets), torch.from_numpy(mask), factors)


def fit_sasrec(
    histories: Histories,
    num_items: int,
    config: SasrecConfig,
    *,
    seed: int,
    queries: Queries | None = None,
    exclude_seen: bool = True,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> Sasrec:
    """Train until validation has not risen `config.patience` times, for at most `config.epochs`.

    Validation has no part in the item vectors: they are those after `config.vector_epochs`, and training lasts as long.

    Args:
        queries: validation; they choose how long training lasts and which epoch's model ranks. Without them all
            epochs are trained and the last one ranks.
        exclude_seen: how validation ranks.
        work: folder for checkpoints; a killed run, called again, returns the same weights.

    Raises:
        DataError: an index lies outside the catalogue, no history has two items, or all weights are 0.
        ArtifactError: the checkpoint in `work` cannot be read.
    """
    counts = fit_popularity(histories, num_items).counts
    windows = training_windows(histories, config.max_length)
    if not windows:
        raise DataError(f"SASRec: none of {len(histories)} histories has two items or more; there is nothing to learn")
    with seeded(seed, 0):
        model = SasrecModel(num_items, config).to(default_device())
    module = _NextItemLoss(model, windows)

    def validate() -> float:
        assert queries is not None
        return _ndcg(Sasrec(config, model, counts, counts), queries, exclude_seen)

    trainer = Trainer(
        module,
        lambda epoch: [
            (torch.from_numpy(rows),)
            for rows in batches(windows, config.batch_tokens, np.random.default_rng((seed, epoch)))
        ],
        Plan(
            config.epochs,
            config.learning_rate,
            config.weight_decay,
            fused=True,
            validate_every=config.validate_every,
            patience=config.patience,
            fixed_epochs=config.vector_epochs,
        ),
        run=Run("sasrec", seed, work, tracker),
        fingerprint=Fingerprint.of("sasrec", seed, config, *_data(histories, queries), num_items, exclude_seen),
        validate=None if queries is None else validate,
    )
    progress = trainer.train()
    vectors: FloatArray = trainer.fixed["model.items.weight"].cpu().numpy()
    return Sasrec(config, model.cpu().eval(), vectors, counts, progress)


def _data(histories: Histories, queries: Queries | None) -> list[IntArray | FloatArray]:
    """The arrays that decide a training."""
    found: list[IntArray | FloatArray] = [histories.indptr, histories.items]
    found += [] if histories.weights is None else [histories.weights]
    return found + ([] if queries is None else [queries.histories.indptr, queries.histories.items, queries.targets])


class _NextItemLoss(nn.Module):
    """Rows of windows -> mean cross-entropy of the item after every item."""

    def __init__(self, model: SasrecModel, windows: list[TrainingSequence]) -> None:
        super().__init__()
        self.model, self._windows = model, windows

    def forward(self, rows: Tensor) -> Loss:
        batch = collate([self._windows[row] for row in rows.tolist()])
        device = self.model.items.weight.device
        hidden = self.model(batch.items.to(device))[batch.mask.to(device)]
        weight, targets = self.model.items.weight, batch.targets.to(device)
        weights = None if batch.weights is None else batch.weights.to(device)
        loss: Tensor = softmax_loss(hidden, weight, targets, weights=weights)
        return Loss(loss, {"loss": loss}, len(targets))


def _ndcg(model: Sasrec, queries: Queries, exclude_seen: bool) -> float:
    candidates = CandidateFilter.unseen(queries.histories) if exclude_seen else CandidateFilter()
    top = model.rank(queries.histories, k=10, candidates=candidates)
    return top_k_metrics(top.items, queries.targets, k=10).ndcg
