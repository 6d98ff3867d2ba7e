"""Configuration of the instruct stage."""

from typing import Annotated

from pydantic import Field

from recsys.config import Config

Weight = Annotated[float, Field(ge=0, le=100)]


class TaskWeights(Config):
    """Passes over each task's examples in an epoch; .5 samples half of them anew each epoch, 0 disables a task."""

    sequential: Weight = 1.0
    item_to_id: Weight = 0.25
    id_to_item: Weight = 0.25


class InstructConfig(Config):
    """Weights of the alignment tasks; a task of weight 0 has no examples."""

    weights: TaskWeights = TaskWeights()
