"""Weights of targets in the heads: factors of their losses, no effect where equal, no rows where 0."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.diffusion.heads import KINDS, LOSSES, Kind, QueryMlp, fit_head
from recsys.diffusion.loss import mean_square
from recsys.diffusion.training import fit_preference, training_rows
from recsys.errors import DataError
from recsys.tables import FloatArray
from recsys.training.plan import Run
from tests.diffusion.conftest import Problem, small_config

FITS = pytest.mark.parametrize("kind", [*KINDS, "preference"])
ROWS = 400


def _fit(
    kind: str, problem: Problem, weights: FloatArray | None, kept: slice | FloatArray = slice(ROWS)
) -> list[Tensor]:
    config = small_config(epochs=2)
    rows = (problem.conditions[::6][kept], problem.targets[::6][kept], problem.latents)
    if kind == "preference":
        return list(fit_preference(*rows, config, seed=0, weights=weights).denoiser.state_dict().values())
    head = fit_head(kind, *rows, config, run=Run(kind, 0), weights=weights)  # type: ignore[arg-type]
    return list(head.model.state_dict().values())


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@FITS
def test_equal_weights_of_any_size_train_the_same_head(kind: str, problem: Problem) -> None:
    plain = _fit(kind, problem, None)
    assert _equal(plain, _fit(kind, problem, np.full(ROWS, 4, np.float32)))
    unequal = np.ones(ROWS, np.float32)
    unequal[::2] = 3
    assert not _equal(plain, _fit(kind, problem, unequal))


@FITS
def test_rows_of_weight_zero_are_as_if_they_were_not_there(kind: str, problem: Problem) -> None:
    weights = np.ones(ROWS, np.float32)
    weights[::3] = 0
    rows = np.flatnonzero(weights)
    assert _equal(_fit(kind, problem, weights), _fit(kind, problem, None, rows))


@pytest.mark.parametrize("kind", KINDS)
def test_a_heads_loss_is_the_weighted_mean_of_its_rows(kind: Kind, problem: Problem) -> None:
    module = LOSSES[kind](QueryMlp(8, 4, hidden_size=16, num_layers=1), torch.from_numpy(problem.latents))
    conditions, targets = torch.from_numpy(problem.conditions[::300]), torch.from_numpy(problem.targets[::300])
    weights = torch.linspace(0.25, 1.75, len(targets))
    single = [module(conditions[n, None], targets[n, None]).diffusion for n in range(len(targets))]
    naive = sum(w * loss for w, loss in zip(weights, single, strict=True)) / len(targets)
    torch.testing.assert_close(module(conditions, targets, weights).diffusion, naive)


def test_the_error_of_samples_is_weighted_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, wanted = torch.randn(2, 5, 3, 4, generator=generator)
    weights = torch.tensor([0.0, 1, 2, 0.5, 1.5])
    naive = sum(w * (p - t).square().mean() for w, p, t in zip(weights, predicted, wanted, strict=True)) / 5
    torch.testing.assert_close(mean_square(predicted, wanted, weights), torch.as_tensor(naive))
    assert torch.equal(mean_square(predicted, wanted, None), torch.nn.functional.mse_loss(predicted, wanted))


def test_rows_have_a_mean_weight_of_one_and_must_have_some(problem: Problem) -> None:
    weights = np.array([0, 1, 5, 0], np.float32)
    rows = training_rows(problem.conditions[:4], np.array([1, 2, 3, 4]), problem.latents, weights)
    assert rows.targets.tolist() == [2, 3]
    assert rows.weights is not None
    np.testing.assert_allclose(rows.weights, [1 / 3, 5 / 3], rtol=1e-6)
    with pytest.raises(DataError, match="one condition a target and at least one"):
        training_rows(problem.conditions[:4], np.array([1, 2, 3, 4]), problem.latents, 0 * weights)
    with pytest.raises(DataError, match="one weight a target"):
        training_rows(problem.conditions[:4], np.array([1, 2, 3, 4]), problem.latents, weights[:2])
