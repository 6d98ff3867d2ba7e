"""Claims: 32 latents each for 1,000 users in seconds on a CPU; several samples find items that one query misses.

`python -m tests.benchmarks.diffusion [speed|quality]` prints one JSON line a measurement. Speed does not depend on what
a denoiser learned; quality is measured on generated users of several tastes, whose next item is of any of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.heads import KINDS, QueryHead, fit_head
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.sampling import Step, ddim_steps, keyed_noise
from recsys.diffusion.schedule import Schedule
from recsys.diffusion.training import fit_preference
from recsys.tables import FloatArray, IntArray
from recsys.training.devices import default_device
from recsys.training.plan import Run
from tests.benchmarks.common import device_name, emit, interleaved

USERS, COMPARED_USERS, SAMPLES, DIM, ROUNDS = 1000, 64, 32, 128, 2

ITEMS, CLUSTERS, LATENT_DIM, CONDITION_DIM, TASTES = 2000, 50, 32, 64, 3
TRAIN_ROWS, TEST_ROWS = 24_000, 1000
BANDWIDTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
SMALL = DiffuseConfig(hidden_size=256, epochs=12, batch_size=256)
# The diffusion head sees a row `timesteps_per_row` times a step, the plain heads once: they get as many more epochs, of
# which the best on validation is kept, because they overfit. The diffusion head keeps its last.
PLAIN = SMALL.model_copy(update={"epochs": SMALL.epochs * SMALL.timesteps_per_row})


def speed() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(DIM, DIM, hidden_size=512, num_layers=3)
    for layer in (denoiser.modulation_projection, denoiser.output_projection):
        torch.nn.init.normal_(layer.weight, std=0.02)
    denoiser.eval().to(default_device())
    model = PreferenceModel(denoiser, DiffuseConfig())
    exact = PreferenceModel(denoiser, DiffuseConfig(precision="fp32"))
    conditions = np.random.default_rng(0).normal(size=(USERS, DIM)).astype(np.float32)
    few = conditions[:COMPARED_USERS]

    def ours(model: PreferenceModel) -> Callable[[], object]:
        return lambda: model.sample(few, range(COMPARED_USERS), seed=0)

    contenders = {"naive": lambda: naive_sample(denoiser, few), "fp32": ours(exact), "ours": ours(model)}
    seconds = interleaved(contenders, rounds=ROUNDS)
    shape = {"samples": SAMPLES, "dim": DIM, "width": 512, "steps": 20, "device": device_name()}
    for name, value in seconds.items():
        emit("diffusion", name, users=COMPARED_USERS, seconds=value, times_faster=seconds["naive"] / value, **shape)
    wall, processor = time.perf_counter(), time.process_time()
    model.sample(conditions, range(USERS), seed=0)
    taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
    emit("diffusion", "sampling", users=USERS, **taken, **shape)


@torch.inference_mode()
def naive_sample(denoiser: Denoiser, conditions: FloatArray) -> FloatArray:
    """The usual way: the condition repeated for every sample, its modulation made as often, all in float32."""
    repeated = torch.from_numpy(conditions).to(default_device()).repeat_interleave(SAMPLES, dim=0)
    noise = keyed_noise(range(len(conditions)), seed=0, num_samples=SAMPLES, dim=DIM)
    y = torch.from_numpy(noise).to(repeated.device).flatten(0, 1)
    for step in ddim_steps(Schedule(1000), 20):
        batches = zip(y.split(1024), repeated.split(1024), strict=True)
        y = torch.cat([_naive_step(denoiser, *batch, step) for batch in batches])
    samples: FloatArray = y.unflatten(0, (-1, SAMPLES)).cpu().numpy()
    return samples


def _naive_step(denoiser: Denoiser, y: torch.Tensor, conditions: torch.Tensor, step: Step) -> torch.Tensor:
    timesteps = torch.full((len(y),), step.timestep, device=y.device)
    modulation = denoiser.modulation(denoiser.embed(conditions), timesteps)
    return step.scale * y + step.output_scale * denoiser(y, modulation).output


class Problem(NamedTuple):
    """Users like items of `TASTES` clusters, one of them most; a condition tells which, through a random network."""

    conditions: FloatArray  # [TRAIN_ROWS + 2 TEST_ROWS, d_h]; validation and test rows come last
    targets: IntArray
    latents: FloatArray  # [N, D], normalised


def make_problem(generator: np.random.Generator) -> Problem:
    rows = TRAIN_ROWS + 2 * TEST_ROWS
    centres = generator.normal(size=(CLUSTERS, LATENT_DIM))
    cluster = np.arange(ITEMS) % CLUSTERS
    latents = centres[cluster] + 0.35 * generator.normal(size=(ITEMS, LATENT_DIM))
    latents = ((latents - latents.mean(axis=0)) / latents.std(axis=0)).astype(np.float32)
    tastes = np.argsort(generator.random((rows, CLUSTERS)), axis=1)[:, :TASTES]
    chosen = tastes[np.arange(rows), generator.choice(TASTES, size=rows, p=(0.5, 0.3, 0.2))]
    ranks = np.arange(1, ITEMS // CLUSTERS + 1)
    within = generator.choice(len(ranks), size=rows, p=1 / ranks / (1 / ranks).sum())
    weights = np.zeros((rows, CLUSTERS))
    weights[np.arange(rows)[:, None], tastes] = (1.0, 0.8, 0.6)
    hidden = np.tanh(weights @ generator.normal(size=(CLUSTERS, 256)))
    conditions = hidden @ generator.normal(size=(256, CONDITION_DIM)) / 16
    conditions += 0.05 * generator.normal(size=conditions.shape)
    return Problem(conditions.astype(np.float32), within * CLUSTERS + chosen, latents)


def kernel_scores(samples: FloatArray, items: FloatArray, bandwidth: float) -> FloatArray:
    """l_j = log sum_s exp(-||y_s - q_j||^2 / 2 bw^2), [B, N]."""
    squares = np.square(samples).sum(axis=2)[:, :, None] + np.square(items).sum(axis=1)
    logits = (2 * samples @ items.T - squares) / (2 * bandwidth**2)
    scores: FloatArray = np.logaddexp.reduce(logits, axis=1)
    return scores


def recall(scores: FloatArray, targets: IntArray) -> float:
    """At 10."""
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    return float(((scores > own).sum(axis=1) < 10).mean())


def quality() -> None:
    problem = make_problem(np.random.default_rng(0))
    train, validation = slice(0, TRAIN_ROWS), slice(TRAIN_ROWS, TRAIN_ROWS + TEST_ROWS)
    test = slice(TRAIN_ROWS + TEST_ROWS, None)
    conditions, targets, latents = problem
    wanted = targets[test]

    def row(name: str, scores: FloatArray, **values: float) -> None:
        emit("diffusion", name, recall_at_10=recall(scores, wanted), **values)

    counts = np.bincount(targets[train], minlength=ITEMS).astype(np.float32)
    row("popularity", np.broadcast_to(counts, (len(wanted), ITEMS)))

    def validate(head: QueryHead) -> float:
        return recall(head.scores(conditions[validation], latents), targets[validation])

    for kind in KINDS:
        start, run = time.process_time(), Run(kind, 0)
        head = fit_head(kind, conditions[train], targets[train], latents, PLAIN, run=run, validate=validate)
        row(kind, head.scores(conditions[test], latents), cpu_seconds=time.process_time() - start)
    start = time.process_time()
    model = fit_preference(conditions[train], targets[train], latents, SMALL, seed=0)
    spent = time.process_time() - start
    samples = model.sample(conditions[test], range(TEST_ROWS), seed=0)
    known = model.sample(conditions[validation], range(TEST_ROWS), seed=1)
    bandwidth = max(BANDWIDTHS, key=lambda b: recall(kernel_scores(known, latents, b), targets[validation]))
    for count in (1, 8, SAMPLES):
        scores = kernel_scores(samples[:, :count], latents, bandwidth)
        row(f"diffusion, samples: {count}", scores, bandwidth=bandwidth, cpu_seconds=spent)


if __name__ == "__main__":
    for part in sys.argv[1:] or ("speed", "quality"):
        {"speed": speed, "quality": quality}[part]()
