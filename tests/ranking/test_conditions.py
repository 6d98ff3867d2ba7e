"""Which prompts the diffusion module and the plain heads are conditioned on."""

from pathlib import Path

import numpy as np
import pytest

from recsys.data.histories import training_histories
from recsys.diffusion.joint import JointPreference, fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.llm.continuous import ContinuousTexts
from recsys.ranking.loading import RankingContext
from tests.ranking.fakes import cycle, ids
from tests.ranking.trained import DIFFUSE, RECOMMEND, Trained


@pytest.mark.parametrize("condition", ["discrete", "continuous"])
def test_a_jointly_trained_head_gets_the_prompts_of_its_training(
    trained: Trained, tmp_path: Path, condition: str
) -> None:
    dataset, latents = cycle(), trained.context.items.latents
    assert latents is not None
    data = JointData(
        ids(dataset), training_histories(dataset.interactions, dataset.catalog), 50, latents, 2, ContinuousTexts()
    )
    config = DIFFUSE.model_copy(update={"joint": True, "condition": condition, "epochs": 1, "titles": False})
    joint: JointPreference = fit_joint(data, config, finetuned=trained.folders["finetune"], out=tmp_path, seed=0)
    folders = trained.folders | {"diffuse": tmp_path}
    conditions = RankingContext.load(folders, RECOMMEND, max_history=20, seed=0).conditions
    assert conditions is not None
    wanted = joint.query_conditions(trained.users.histories, window=20).numpy()
    np.testing.assert_allclose(conditions(trained.batch()), wanted, atol=1e-5)
