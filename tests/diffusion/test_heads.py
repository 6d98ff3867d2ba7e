"""The plain heads learn the mean of the latents, and the shares of the items."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsys.diffusion.heads import LOSSES, Kind, QueryHead, QueryMlp
from recsys.errors import ArtifactError
from tests.diffusion.conftest import Problem, fit_plain, small_config

TRAINED = {"hidden_size": 32, "epochs": 12, "learning_rate": 1e-2}


def test_regression_predicts_the_mean_and_ranks_by_nearness(problem: Problem) -> None:
    head = fit_plain("regression", *problem[:2], problem.latents, small_config(**TRAINED), seed=0)
    queries = head.predict(problem.users)
    np.testing.assert_allclose(queries, problem.shares @ problem.latents, atol=0.15)
    distances = np.square(queries[:, None] - problem.latents).sum(axis=2)
    np.testing.assert_allclose(head.scores(problem.users, problem.latents), -distances, atol=1e-4)


def test_cross_entropy_ranks_as_inner_products_and_each_users_own_items_first(problem: Problem) -> None:
    head = fit_plain("cross_entropy", *problem[:2], problem.latents, small_config(**TRAINED), seed=0)
    scores = head.scores(problem.users, problem.latents)
    np.testing.assert_allclose(scores, head.predict(problem.users) @ problem.latents.T / 2, atol=1e-4)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    own = np.take_along_axis(probabilities, np.arange(12).reshape(4, 3), axis=1).sum(axis=1)
    assert own.min() > 0.5  # by chance .25


def test_a_block_adds_to_its_input_and_the_output_is_normalised() -> None:
    """Blocks whose last layer is zero change nothing, and the size of the input of the last layer does not matter."""
    torch.manual_seed(0)
    model, conditions = QueryMlp(8, 4, hidden_size=16, num_layers=2), torch.randn(5, 8)
    for branch in model.blocks:
        torch.nn.init.zeros_(branch[2].weight)
        torch.nn.init.zeros_(branch[2].bias)
    plain = model(conditions)
    assert plain.std(dim=0).min() > 0.1
    with torch.no_grad():
        model.input_projection.weight.mul_(10)
        model.input_projection.bias.mul_(10)
    torch.testing.assert_close(model(conditions), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["regression", "cross_entropy"])
def test_the_scores_are_those_that_the_loss_trains(kind: Kind, problem: Problem) -> None:
    """Cross-entropy: softmax of the scores; regression: a target's score is its squared distance, mean a dimension."""
    head = fit_plain(kind, *problem[:2], problem.latents, small_config(), seed=0)
    module = LOSSES[kind](head.model, torch.from_numpy(problem.latents))
    conditions, targets = problem.conditions[::50], torch.from_numpy(problem.targets[::50])
    scores = torch.from_numpy(head.scores(conditions, problem.latents))
    wanted = F.cross_entropy(scores, targets) if kind == "cross_entropy" else -scores[range(48), targets].mean() / 4
    torch.testing.assert_close(module(torch.from_numpy(conditions), targets).diffusion, wanted)


@pytest.mark.parametrize("kind", ["regression", "cross_entropy"])
def test_saved_and_loaded_it_is_the_same(kind: Kind, problem: Problem, tmp_path: Path) -> None:
    head = fit_plain(kind, *problem[:2], problem.latents, small_config(epochs=1), seed=0)
    head.save(tmp_path / "heads")
    loaded = QueryHead.load(tmp_path / "heads", kind)
    assert loaded.config == head.config
    assert repr(loaded) == f"<QueryHead ({kind}, 8 -> 4)>"
    np.testing.assert_array_equal(loaded.predict(problem.users), head.predict(problem.users))
    (tmp_path / "heads" / f"{kind}.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=rf"{kind}\.safetensors cannot be read"):
        QueryHead.load(tmp_path / "heads", kind)
