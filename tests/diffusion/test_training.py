"""The shared loop: resumed exactly, kept by validation, deaf to the global generator; every head goes through it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from recsys.diffusion.heads import QueryHead
from recsys.diffusion.preference import PreferenceModel
from recsys.diffusion.training import fit_preference
from recsys.errors import DataError
from recsys.tracking import NullTracker
from tests.diffusion.conftest import Problem, fit_plain, small_config

FITS: dict[str, Callable[..., Any]] = {
    "preference": fit_preference,
    "regression": partial(fit_plain, "regression"),
    "cross_entropy": partial(fit_plain, "cross_entropy"),
}


class KilledError(Exception):
    pass


class Recorder(NullTracker):
    """Keeps what is logged, and stops a training after an epoch as a kill would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.values: dict[str, list[float]] = {}
        self.stop_at = stop_at

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        if step == self.stop_at:
            raise KilledError


def weights(model: PreferenceModel | QueryHead) -> dict[str, torch.Tensor]:
    module = model.denoiser if isinstance(model, PreferenceModel) else model.model
    return dict(module.state_dict())


def assert_same_weights(one: PreferenceModel | QueryHead, other: PreferenceModel | QueryHead) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


@pytest.mark.parametrize("name", FITS)
def test_the_loss_falls_and_the_metrics_are_named(name: str, problem: Problem) -> None:
    recorder = Recorder()
    config = small_config(epochs=6, learning_rate=5e-3)
    FITS[name](*problem[:2], problem.latents, config, seed=0, validate=lambda _: 0.5, tracker=recorder)
    expected = {f"{name}/loss": 6, f"{name}/validation_ndcg@10": 3}
    if name == "preference":
        expected["preference/dispersive"] = 6
    assert {key: len(values) for key, values in recorder.values.items()} == expected
    assert recorder.values[f"{name}/loss"][-1] < recorder.values[f"{name}/loss"][0]


def test_the_averaged_weights_of_the_best_validation_are_kept(problem: Problem) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.2, 0.8, 0.4])

    def validate(model: PreferenceModel) -> float:
        assert not model.denoiser.training
        seen.append({name: tensor.clone() for name, tensor in weights(model).items()})
        return next(scores)

    config = small_config(epochs=5)
    kept = fit_preference(*problem[:2], problem.latents, config, seed=0, validate=validate)
    assert len(seen) == 3
    for name, tensor in weights(kept).items():
        assert torch.equal(tensor, seen[1][name])
    last = fit_preference(*problem[:2], problem.latents, config, seed=0)
    for name, tensor in weights(last).items():
        assert torch.equal(tensor, seen[2][name])


def test_the_average_lags_behind_the_weights(problem: Problem) -> None:
    slow, fast = (
        fit_preference(*problem[:2], problem.latents, small_config(epochs=1, ema_decay=decay), seed=0)
        for decay in (0.999, 0.0)
    )
    start = fit_preference(*problem[:2], problem.latents, small_config(epochs=1, learning_rate=1e-30), seed=0)

    def moved(model: PreferenceModel) -> float:
        return float((weights(model)["output_projection.weight"] - weights(start)["output_projection.weight"]).norm())

    assert 0 < moved(slow) < moved(fast)


@pytest.mark.parametrize("name", FITS)
def test_what_cannot_be_trained_on_is_refused(name: str, problem: Problem) -> None:
    fit, config = FITS[name], small_config()
    with pytest.raises(DataError, match="at least one; got 0, 0"):
        fit(problem.conditions[:0], problem.targets[:0], problem.latents, config, seed=0)
    with pytest.raises(DataError, match="got 5, 4"):
        fit(problem.conditions[:5], problem.targets[:4], problem.latents, config, seed=0)
    with pytest.raises(DataError, match=r"item indices in 0\.\.3; got 0\.\.11"):
        fit(problem.conditions, problem.targets, problem.latents[:4], config, seed=0)
    with pytest.raises(DataError, match=r"item indices in 0\.\.10; got 0\.\.11"):
        fit(problem.conditions, problem.targets, problem.latents[:11], config, seed=0)
    with pytest.raises(DataError, match="NaN"):
        fit(np.full_like(problem.conditions, np.nan), problem.targets, problem.latents, config, seed=0)


@pytest.mark.parametrize("kind", ["regression", "cross_entropy"])
def test_a_plain_head_trains_at_a_constant_rate_until_validation_stops_rising(kind: str, problem: Problem) -> None:
    """Where every score is the same, it ends `patience` validations after the first, long before `plain_epochs`."""
    losses = []
    for plain_epochs in (50, 4):
        recorder = Recorder()
        config = small_config(epochs=1, plain_epochs=plain_epochs, patience=2, validate_every=1, warmup_ratio=0)
        rows = problem.conditions[::24], problem.targets[::24]
        FITS[kind](*rows, problem.latents, config, seed=0, validate=lambda _: 0.5, tracker=recorder)
        losses.append(recorder.values[f"{kind}/loss"])
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
