"""A problem whose answer is known: four users, each with three items of their own in known shares."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.heads import Kind, QueryHead, fit_head
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.training import fit_preference
from recsys.tables import FloatArray, IntArray
from recsys.tracking import Tracker
from recsys.training.plan import Run

NUM_USERS, NUM_MODES = 4, 3


class Problem(NamedTuple):
    """`conditions` [P, 8] and `targets` [P] to learn from; one condition a user [4, 8]; items' latents [12, 4]."""

    conditions: FloatArray
    targets: IntArray
    users: FloatArray
    latents: FloatArray
    shares: FloatArray  # [4, 12], of each user's targets


def small_config(**changes: object) -> DiffuseConfig:
    """A head that trains in moments and is exact on every machine."""
    small = {
        "hidden_size": 16,
        "num_layers": 1,
        "epochs": 4,
        "plain_epochs": changes.get("epochs", 4),
        "batch_size": 100,
        "precision": "fp32",
        "ema_decay": 0.9,
        "num_samples": 5,
    }
    return DiffuseConfig.model_validate(small | changes)


def fit_plain(
    kind: Kind,
    conditions: FloatArray,
    targets: IntArray,
    latents: FloatArray,
    config: DiffuseConfig,
    *,
    seed: int,
    validate: Callable[[QueryHead], float] | None = None,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> QueryHead:
    """`fit_head` with the arguments of `fit_preference`."""
    run = Run(kind, seed, work, tracker)
    return fit_head(kind, conditions, targets, latents, config, run=run, validate=validate)


@pytest.fixture(scope="session")
def problem() -> Problem:
    generator = np.random.default_rng(0)
    latents = generator.normal(size=(NUM_USERS * NUM_MODES, 4)).astype(np.float32)
    latents = (latents - latents.mean(axis=0)) / latents.std(axis=0)
    shares = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.34, 0.33, 0.33], [0.1, 0.1, 0.8]])
    user = np.repeat(np.arange(NUM_USERS), 600)
    targets = np.concatenate([NUM_MODES * u + generator.choice(NUM_MODES, 600, p=shares[u]) for u in range(NUM_USERS)])
    users = 3 * np.eye(NUM_USERS, 8, dtype=np.float32)
    counts = np.stack([np.bincount(targets[user == u], minlength=len(latents)) for u in range(NUM_USERS)])
    return Problem(users[user], targets, users, latents, (counts / 600).astype(np.float32))


@pytest.fixture(scope="session")
def trained(problem: Problem) -> PreferenceModel:
    config = small_config(hidden_size=64, num_layers=2, epochs=24, learning_rate=6e-3, ema_decay=0.98)
    return fit_preference(problem.conditions, problem.targets, problem.latents, config, seed=0)


@pytest.fixture
def untouched_generator() -> Iterator[None]:
    """Fails the test that moves torch's global generator."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
