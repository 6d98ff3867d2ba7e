"""A trained head on disk: the same when loaded, refused by name when damaged."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.preference import PreferenceModel
from recsys.errors import ArtifactError
from tests.diffusion.conftest import Problem, small_config


def test_saved_and_loaded_it_is_the_same(trained: PreferenceModel, problem: Problem, tmp_path: Path) -> None:
    trained.save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["preference.json", "preference.safetensors"]
    loaded = PreferenceModel.load(tmp_path / "new")
    assert loaded.config == trained.config
    assert repr(loaded) == "<PreferenceModel (8 -> 4, 2 layers x 64)>"
    drawn = loaded.sample(problem.users, range(4), seed=3)
    np.testing.assert_array_equal(drawn, trained.sample(problem.users, range(4), seed=3))


def test_missing_files_are_refused(trained: PreferenceModel, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"preference\.json cannot be read"):
        PreferenceModel.load(tmp_path)
    trained.save(tmp_path)
    (tmp_path / "preference.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"preference\.safetensors cannot be read"):
        PreferenceModel.load(tmp_path)


def test_truncated_weights_are_refused(trained: PreferenceModel, tmp_path: Path) -> None:
    trained.save(tmp_path)
    path = tmp_path / "preference.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="run `diffuse` again"):
        PreferenceModel.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "regression"}, "is not a preference of version 1"),
        ({"version": 2}, "is not a preference of version 1"),
        ({"shape": {"condition_dim": 9, "latent_dim": 4}}, "size mismatch"),
        ({"shape": {"other": 9}}, "cannot be read"),
        ({"config": {"widht": 4}}, "widht"),
    ],
)
def test_metadata_that_does_not_match_is_refused(
    trained: PreferenceModel, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    trained.save(tmp_path)
    path = tmp_path / "preference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        PreferenceModel.load(tmp_path)


@pytest.mark.parametrize(("precision", "equal"), [("fp32", False), ("bf16", True)])
def test_samples_are_drawn_in_the_configured_precision(precision: str, equal: bool) -> None:
    """In bf16 it makes no difference whether the weights were rounded to bf16 before."""
    torch.manual_seed(0)
    denoiser = Denoiser(8, 4, hidden_size=16, num_layers=1).eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    rounded = copy.deepcopy(denoiser).bfloat16().float()
    config = small_config(precision=precision)
    conditions = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    one, two = (PreferenceModel(each, config).sample(conditions, [1, 2, 3], seed=0) for each in (denoiser, rounded))
    assert np.array_equal(one, two) == equal
