"""A trained head on disk: the same when loaded, refused by name when damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from recsys.diffusion.preference import PreferenceModel
from recsys.errors import ArtifactError
from tests.diffusion.conftest import Problem


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
