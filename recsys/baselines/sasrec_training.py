"""Training of SASRec: full-softmax cross-entropy at every position, resumed from the last whole epoch.

Takes histories and gives a `Sasrec`; writes checkpoints into `work` where one is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recsys.baselines.config import SasrecConfig
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec import Sasrec, SasrecModel
from recsys.checkpoints import (
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prefixed,
    save_checkpoint,
    seeded,
    unprefixed,
)
from recsys.errors import DataError
from recsys.metrics import top_k_metrics
from recsys.tables import CandidateFilter, Histories, IntArray, Queries
from recsys.tracking import NullTracker, Tracker

LOSS_ROWS = 128  # positions whose logits are in memory at once; small enough to stay near the cache


class Batch(NamedTuple):
    items: torch.Tensor  # [B, T] inputs, padded with 0 at the end
    targets: torch.Tensor  # [P] the item after every input that is not padding
    places: torch.Tensor  # bool [B, T], the P inputs that are not padding


class SoftmaxLoss(torch.autograd.Function):
    """Mean cross-entropy of hidden [P, D] against all items [N, D], holding `LOSS_ROWS` x N logits at a time.

    The gradients are made in the forward pass, while the probabilities are there, so no logit is kept or made twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        buffer = torch.empty(LOSS_ROWS, len(weight), dtype=hidden.dtype, device=hidden.device)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), LOSS_ROWS):
            part, wanted = hidden[start : start + LOSS_ROWS], targets[start : start + LOSS_ROWS]
            logits = torch.mm(part, weight.T, out=buffer[: len(part)])
            peak = logits.amax(dim=1, keepdim=True)
            score = logits.gather(1, wanted[:, None]) - peak
            mass = logits.sub_(peak).exp_().sum(dim=1, keepdim=True)
            total += (mass.log() - score).sum()
            grad_hidden[start : start + LOSS_ROWS] = logits @ weight / mass - weight[wanted]
            grad_weight.addmm_(logits.T, part / mass).index_add_(0, wanted, part, alpha=-1)
        ctx.save_for_backward(grad_hidden / len(hidden), grad_weight / len(hidden))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None


def training_windows(histories: Histories, max_length: int) -> list[IntArray]:
    """Histories cut into windows of at most `max_length + 1` items, newest window full.

    Neighbouring windows share one item, so every step from an item to the next is learned exactly once.
    """
    return [
        histories[user][max(0, end - max_length - 1) : end]
        for user, length in enumerate(histories.lengths)
        for end in range(length, 1, -max_length)
    ]


def batches(windows: list[IntArray], batch_tokens: int, rng: np.random.Generator) -> Iterator[Batch]:
    """One epoch in random order; windows of near length share a batch of at most `batch_tokens` padded inputs."""
    lengths = np.array([len(window) - 1 for window in windows])
    order = np.lexsort((rng.random(len(windows)), lengths))
    starts, width = [0], 0
    for place, window in enumerate(order):
        width = max(width, int(lengths[window]))
        if place > starts[-1] and (place + 1 - starts[-1]) * width > batch_tokens:
            starts.append(place)
            width = int(lengths[window])
    groups = np.split(order, starts[1:])
    for group in rng.permutation(len(groups)):
        yield _collate([windows[w] for w in groups[group]])


def _collate(windows: list[IntArray]) -> Batch:
    lengths = np.array([len(window) - 1 for window in windows])
    places = np.arange(lengths.max()) < lengths[:, None]
    items = np.zeros(places.shape, dtype=np.int64)
    items[places] = np.concatenate([window[:-1] for window in windows])
    targets = np.concatenate([window[1:] for window in windows])
    return Batch(torch.from_numpy(items), torch.from_numpy(targets), torch.from_numpy(places))


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
    """Train for `config.epochs`, with checkpoints in `work`: a killed run, called again, gives the same weights.

    `queries` (validation; ranked with `exclude_seen`) choose only which epoch's model ranks; without them the last
    one does. Item vectors are always those of the last epoch.

    Raises:
        DataError: an index lies outside the catalogue, or no history has two items.
        ArtifactError: the checkpoint in `work` cannot be read.
    """
    tracker = tracker or NullTracker()
    counts = fit_popularity(histories, num_items).counts
    windows = training_windows(histories, config.max_length)
    if not windows:
        raise DataError(f"SASRec: none of {len(histories)} histories has two items or more; there is nothing to learn")
    state = _start(num_items, config, seed, work)
    for epoch in tracker.track(range(state.epoch, config.epochs), "SASRec", config.epochs - state.epoch):
        loss = _train_epoch(state, windows, config, seed)
        tracker.log({"sasrec/loss": loss}, step=epoch + 1)
        if queries is not None and (state.epoch % config.validate_every == 0 or state.epoch == config.epochs):
            _validate(state, Sasrec(config, state.model, counts, counts), queries, exclude_seen, tracker)
        if work is not None:
            _save(state, work)
    vectors = state.model.items.weight.detach().cpu().numpy().copy()
    state.model.load_state_dict(state.best or state.model.state_dict())
    return Sasrec(config, state.model.cpu().eval(), vectors, counts)


@dataclass
class _State:
    """What a checkpoint holds; `best` is the model of the best validation so far, empty before the first."""

    model: SasrecModel
    optimizer: torch.optim.Optimizer
    best: dict[str, torch.Tensor]
    best_ndcg: float = -1.0
    epoch: int = 0
    step: int = 0


def _start(num_items: int, config: SasrecConfig, seed: int, work: Path | None) -> _State:
    """A new state, or the one that `work` holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with seeded(seed, 0):
        model = SasrecModel(num_items, config).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = _State(model, optimizer, {})
    checkpoint = load_checkpoint(work) if work is not None else None
    if checkpoint is not None:
        model.load_state_dict(unprefixed("model", checkpoint.tensors))
        load_optimizer(optimizer, checkpoint.tensors)
        state.best = unprefixed("best", checkpoint.tensors)
        state.best_ndcg, state.epoch, state.step = (checkpoint.meta[key] for key in ("best_ndcg", "epoch", "step"))
    return state


def _save(state: _State, work: Path) -> None:
    tensors = prefixed("model", state.model.state_dict()) | prefixed("best", state.best)
    meta = {"best_ndcg": state.best_ndcg, "epoch": state.epoch, "step": state.step}
    save_checkpoint(work, tensors | optimizer_tensors(state.optimizer), meta)


def _train_epoch(state: _State, windows: list[IntArray], config: SasrecConfig, seed: int) -> float:
    """One pass over the windows; the mean loss of its positions."""
    state.model.train()
    device = state.model.items.weight.device
    total, positions = 0.0, 0
    for batch in batches(windows, config.batch_tokens, np.random.default_rng((seed, state.epoch))):
        state.step += 1
        with seeded(seed, state.step):
            hidden = state.model(batch.items.to(device))[batch.places.to(device)]
            targets = batch.targets.to(device)
            loss = SoftmaxLoss.apply(hidden, state.model.items.weight, targets)  # type: ignore[no-untyped-call]
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        total += loss.item() * len(batch.targets)
        positions += len(batch.targets)
    state.epoch += 1
    return total / positions


def _validate(state: _State, model: Sasrec, queries: Queries, exclude_seen: bool, tracker: Tracker) -> None:
    """Keep the model where its NDCG@10 is the best so far."""
    ndcg = _ndcg(model, queries, exclude_seen)
    tracker.log({"sasrec/validation_ndcg@10": ndcg}, step=state.epoch)
    if ndcg > state.best_ndcg:
        state.best_ndcg = ndcg
        state.best = {name: tensor.detach().cpu().clone() for name, tensor in state.model.state_dict().items()}


def _ndcg(model: Sasrec, queries: Queries, exclude_seen: bool) -> float:
    candidates = CandidateFilter.unseen(queries.histories) if exclude_seen else CandidateFilter()
    top = model.rank(queries.histories, k=10, candidates=candidates)
    return top_k_metrics(top.items, queries.targets, k=10).ndcg
