"""The training loop of every model: SASRec, both tokenizers, the language model, the heads, and joint training.

Everything random is a function of (seed, epoch, step), so a run that is killed at any step and started again ends with
the weights of an uninterrupted one. The kept weights are the best by the caller's `validate`, not by loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recsys.errors import ArtifactError
from recsys.tracking import NullTracker
from recsys.training.checkpoints import (
    Fingerprint,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prefixed,
    save_checkpoint,
    unprefixed,
)
from recsys.training.ema import MovingAverage
from recsys.training.plan import Callbacks, Plan, Progress, Run, StepLoss, added
from recsys.training.processes import Processes
from recsys.training.seeding import seeded

logger = logging.getLogger(__name__)

Batch = tuple[Tensor | None, ...]
Batches = Callable[[int], Sequence[Batch | list[Batch]]]


class Trainer:
    """Trains the parameters of `module` that require gradients, and leaves the best ones in it.

    Args:
        module: takes a batch's tensors (None for what a batch lacks) and returns a `StepLoss`.
        batches: epoch -> its batches, the same list at every call; moved to the module's device. An optimizer step is
            of one batch, or of a list of this process's parts of a step, whose losses add up to the step's (see
            `recsys.llm.parts`); all processes have as many steps.
        fingerprint: of the configuration and data; only its own checkpoint is continued.
        validate: the score to keep the best weights by (higher is better); None keeps the last weights.
        average: a moving average of (a part of) the module, updated after every step and kept with the weights.

    Attributes:
        fixed: the weights after `plan.fixed_epochs`, or after all epochs where there are fewer, by name.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Batches,
        plan: Plan,
        *,
        run: Run,
        fingerprint: Fingerprint,
        validate: Callable[[], float] | None = None,
        average: MovingAverage[Any] | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self._module, self._batches, self._plan, self._run = module, batches, plan, run
        self._fingerprint, self._validate, self._average = fingerprint, validate, average
        self._processes = Processes.launched() if plan.distributed else Processes()
        if self._processes.device is not None:
            module.to(self._processes.device)
        self._callbacks = callbacks or Callbacks()
        self._tracker = run.tracker if run.tracker and self._processes.is_first else NullTracker()
        self._named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(self._groups(), betas=plan.betas, fused=plan.fused)
        self._processes.copy_first(self._named.values())
        self._best: dict[str, Tensor] = {}
        self.fixed: dict[str, Tensor] = {}
        self._progress, self._saved_at = Progress(), 0

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate, and by whether they decay."""
        plan, groups = self._plan, list[dict[str, Any]]()
        for prefix in ("", *plan.rate_factors):
            members = [p for n, p in self._named.items() if self._prefix(n) == prefix]
            decaying = [p for p in members if plan.decay_vectors or p.ndim > 1]
            rest = [p for p in members if not plan.decay_vectors and p.ndim <= 1]
            rate = plan.learning_rate * plan.rate_factors.get(prefix, 1.0)
            groups.append({"params": decaying, "weight_decay": plan.weight_decay, "lr": rate})
            groups.append({"params": rest, "weight_decay": 0.0, "lr": rate})
        return groups

    def _prefix(self, name: str) -> str:
        return next((prefix for prefix in self._plan.rate_factors if name.startswith(prefix)), "")

    def train(self) -> Progress:
        """Train to the end (from the last checkpoint, if there is one) and restore the best weights."""
        resumed = self._resume()
        self._require_equal_progress()
        if not resumed:
            self._callbacks.on_start()
            if self._validate is not None and self._plan.validate_first:
                self._keep_if_best()
                self._progress = self._progress._replace(first=self._progress.best)
        start = self._progress.epoch
        epochs = range(start, start if self._progress.settled else self._plan.epochs)
        for _ in epochs if self._plan.log_steps else self._track(epochs, "epochs"):
            self._epoch()
            if self._progress.settled:
                break
        self._warn_if_unsettled()
        self._load(self._best)
        self._module.eval()
        return self._progress

    def _epoch(self) -> None:
        plan, epoch = self._plan, self._progress.epoch
        batches = self._batches(epoch)
        num_steps = len(batches)
        steps = range(self._progress.step, num_steps)
        schedule = LambdaLR(self._optimizer, lambda done: self._rate_factor(epoch, (steps.start + done) / num_steps))
        means: dict[str, Tensor] = {}
        num_examples = 0
        self._module.train()
        for step in self._track(steps, f"epoch {epoch + 1}/{plan.epochs}") if plan.log_steps else steps:
            loss = self._step(batches[step])
            schedule.step()
            if plan.log_steps and self._progress.total_steps % plan.log_steps == 0:
                parts = {name: float(value.detach()) for name, value in loss.parts().items()}
                self._log(self._processes.sum_values(parts))
            elif not plan.log_steps:
                num_examples += loss.num_examples
                for name, value in loss.parts().items():
                    means[name] = means.get(name, torch.zeros(())) + value.detach().cpu() * loss.num_examples
            if plan.checkpoint_within_epochs:
                self._checkpoint()
        last = epoch + 1 == plan.epochs
        values = {name: float(total) / num_examples for name, total in means.items()}
        values |= self._callbacks.on_epoch_end(self._optimizer, last=last)
        self._progress = self._progress._replace(epoch=epoch + 1, step=0)
        if epoch + 1 == min(plan.fixed_epochs, plan.epochs):
            self.fixed = self._copied_state()
        self._log(values)
        due = self._validate is not None and ((epoch + 1) % plan.validate_every == 0 or last)
        if due:
            self._keep_if_best()
        self._checkpoint(force=due or last)

    def _step(self, batches: Batch | list[Batch]) -> StepLoss:
        progress, device = self._progress, next(iter(self._named.values())).device
        seed = self._run.seed + 7919 * self._processes.rank  # every process drops other units
        losses: list[StepLoss] = []
        self._optimizer.zero_grad(set_to_none=True)
        with seeded(seed, progress.total_steps + 1):
            for batch in batches if isinstance(batches, list) else [batches]:
                with torch.autocast(device.type, torch.bfloat16, enabled=self._plan.bf16):
                    loss: StepLoss = self._module(*(t if t is None else t.to(device) for t in batch))
                loss.mean().backward()  # type: ignore[no-untyped-call]
                losses.append(loss)
        self._processes.sum_gradients(list(self._named.values()))
        if self._plan.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(list(self._named.values()), self._plan.max_grad_norm)
        self._optimizer.step()
        self._progress = progress._replace(step=progress.step + 1, total_steps=progress.total_steps + 1)
        if self._average is not None:
            self._average.update()
        return losses[0] if len(losses) == 1 else added(losses)

    def _rate_factor(self, epoch: int, share: float) -> float:
        """The learning rate's share of its peak, after `share` of an epoch."""
        within = 0 if self._plan.anneal_by_epoch else share
        return self._plan.learning_rate_factor((epoch + within) / self._plan.epochs)

    def _keep_if_best(self) -> None:
        validate = self._validate
        assert validate is not None
        self._module.eval()
        score = self._processes.from_first(lambda: float(validate()))
        self._log({"validation_ndcg@10": score})
        if score > self._progress.best:
            self._best = self._copied_state()
            self._progress = self._progress._replace(best=score, best_epoch=self._progress.epoch, stale=0)
        else:
            stale, patience = self._progress.stale + 1, self._plan.patience
            settled = patience is not None and stale >= patience and self._progress.epoch >= self._plan.fixed_epochs
            self._progress = self._progress._replace(stale=stale, settled=settled)

    def _warn_if_unsettled(self) -> None:
        if self._validate is not None and self._plan.patience is not None and not self._progress.settled:
            logger.warning(
                "%s: the maximum of %d epochs ended it before validation settled (best at epoch %d); raise epochs",
                *(self._run.name, self._plan.epochs, self._progress.best_epoch),
            )

    def _track(self, steps: range, label: str) -> Any:
        return self._tracker.track(steps, f"{self._run.name} {label}", len(steps))

    def _log(self, values: Mapping[str, float]) -> None:
        if values:
            step = self._progress.total_steps if self._plan.log_steps else self._progress.epoch
            self._tracker.log({f"{self._run.name}/{key}": value for key, value in values.items()}, step=step)

    def _state(self) -> dict[str, Tensor]:
        """All tensors that make up the weights, by name."""
        weights: dict[str, Tensor] = dict(self._named)
        return weights if self._average is None else weights | prefixed("average", self._average.state_dict())

    def _copied_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._state().items()}

    def _checkpoint(self, *, force: bool = False) -> None:
        enough = self._progress.total_steps - self._saved_at >= self._plan.checkpoint_steps
        if self._run.work is None or not self._processes.is_first or not (force or enough):
            return
        kept = prefixed("best", self._best) | prefixed("fixed", self.fixed)
        tensors = prefixed("model", self._state()) | kept | optimizer_tensors(self._optimizer)
        save_checkpoint(self._run.work, self._fingerprint, tensors, self._progress._asdict())
        self._saved_at = self._progress.total_steps

    def _resume(self) -> bool:
        """Restore the checkpoint of this training; False where there is none."""
        saved = None if self._run.work is None else load_checkpoint(self._run.work, self._fingerprint)
        if saved is None:
            return False
        self._load(unprefixed("model", saved.tensors))
        self._best, self.fixed = unprefixed("best", saved.tensors), unprefixed("fixed", saved.tensors)
        load_optimizer(self._optimizer, saved.tensors)
        self._progress = Progress(**saved.meta)
        self._saved_at = self._progress.total_steps
        return True

    def _require_equal_progress(self) -> None:
        """Wait until all processes have read the checkpoint, which the first may soon replace."""
        steps, count = self._progress.total_steps, self._processes.count
        if self._processes.sum_values({"steps": steps})["steps"] != steps * count:
            raise ArtifactError(
                f"{self._run.name}: the {count} processes read different checkpoints in {self._run.work}; "
                "give all of them the same folder"
            )

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        state = self._state()
        for name, value in weights.items():
            state[name].copy_(value)
