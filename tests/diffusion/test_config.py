"""Configurations that are refused, each in one clear line."""

import pytest
from pydantic import ValidationError

from recsys.diffusion.config import DiffuseConfig


def test_continuous_conditions_need_joint_training() -> None:
    with pytest.raises(ValidationError, match="condition=continuous needs joint=true"):
        DiffuseConfig(condition="continuous")
    assert DiffuseConfig(condition="continuous", joint=True).joint


def test_there_are_at_most_as_many_sampling_steps_as_timesteps() -> None:
    assert DiffuseConfig(sampling_steps=200, timesteps=200).sampling_steps == 200
    with pytest.raises(ValidationError, match="sampling_steps=300 is more than timesteps=200"):
        DiffuseConfig(sampling_steps=300, timesteps=200)
