"""What the configuration refuses, in one clear line."""

import pytest
from pydantic import ValidationError

from recsys.diffusion.config import DiffuseConfig


def test_continuous_conditions_need_joint_training() -> None:
    with pytest.raises(ValidationError, match="condition=continuous needs joint=true"):
        DiffuseConfig(condition="continuous")
    assert DiffuseConfig(condition="continuous", joint=True).joint


def test_steps_default_to_the_sampler_and_fit_the_timesteps() -> None:
    assert DiffuseConfig().sampling_steps == 20
    assert DiffuseConfig(sampler="ancestral").sampling_steps == 50
    assert DiffuseConfig(timesteps=10).sampling_steps == 10
    with pytest.raises(ValidationError, match="steps=300 is more than timesteps=200"):
        DiffuseConfig(steps=300, timesteps=200)
