"""Configuration of the instruct stage."""

from typing import Annotated

from pydantic import Field

from recsys.config import Config

Weight = Annotated[float, Field(ge=0, le=100)]


class TaskWeights(Config):
    """How often an epoch passes over each task's examples; .5 is a fresh half of them an epoch, 0 turns a task off."""

    sequential: Weight = 1.0
    item_to_id: Weight = 0.25
    id_to_item: Weight = 0.25


class InstructConfig(Config):
    """Weights of the alignment tasks; a task of weight 0 has no examples."""

    weights: TaskWeights = TaskWeights()
