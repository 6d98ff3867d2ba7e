"""Which prompts the diffusion module and the plain heads are conditioned on."""

from pathlib import Path

import numpy as np
import pytest

from recsys.data.histories import training_histories
from recsys.diffusion.joint import JointPreference, fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.errors import ModelError
from recsys.llm.continuous import ContinuousTexts
from recsys.ranking.loading import RankingContext
from tests.ranking.fakes import cycle, finetuned, ids
from tests.ranking.trained import DIFFUSE, RECOMMEND, Trained


@pytest.fixture(scope="module")
def reading_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model whose prompts are of code tokens, as joint training needs them."""
    dataset = cycle()
    return finetuned(dataset, ids(dataset), folder=tmp_path_factory.mktemp("tokens"))


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["discrete", "continuous"])
def test_a_jointly_trained_head_gets_the_prompts_of_its_training(
    trained: Trained, reading_tokens: Path, tmp_path: Path, condition: str
) -> None:
    dataset, latents = cycle(), trained.context.items.latents
    assert latents is not None
    data = JointData(
        ids(dataset), training_histories(dataset.interactions, dataset.catalog), 50, latents, 2, ContinuousTexts()
    )
    config = DIFFUSE.model_copy(update={"joint": True, "condition": condition, "epochs": 1, "titles": False})
    joint: JointPreference = fit_joint(data, config, finetuned=reading_tokens, out=tmp_path, seed=0)
    folders = trained.folders | {"finetune": reading_tokens, "diffuse": tmp_path}
    conditions = RankingContext.load(folders, RECOMMEND, max_history=20, seed=0).conditions
    assert conditions is not None
    wanted = joint.query_conditions(trained.users.histories, window=20).numpy()
    np.testing.assert_allclose(conditions(trained.batch()), wanted, atol=1e-5)


def test_joint_training_refuses_a_model_that_reads_whole_items(trained: Trained, tmp_path: Path) -> None:
    dataset, latents = cycle(), trained.context.items.latents
    assert latents is not None
    data = JointData(ids(dataset), training_histories(dataset.interactions, dataset.catalog), 50, latents, 2)
    with pytest.raises(ModelError, match=r"finetune\.items=tokens, not sum"):
        fit_joint(data, DIFFUSE, finetuned=trained.folders["finetune"], out=tmp_path, seed=0)
