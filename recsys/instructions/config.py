"""Configuration of the instruct stage."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config import Config

Weight = Annotated[float, Field(ge=0, le=100)]
TextSource = Literal["auto", "columns", "composed"]


class TaskWeights(Config):
    """Passes over each task's examples in an epoch; .5 samples half of them anew each epoch, 0 disables a task.

    The first three are the recipes' mixture; the others are 0 unless a configuration asks for them.
    """

    sequential: Weight = Field(1.0, description="history of semantic ids -> the next one, at every position")
    item_to_id: Weight = Field(0.25, description="text of an item -> semantic id")
    id_to_item: Weight = Field(0.25, description="semantic id -> text of the item")
    history_to_title: Weight = Field(0.0, description="history of semantic ids -> title of the next item")
    history_to_description: Weight = Field(0.0, description="history of semantic ids -> description of the next item")
    titles_to_id: Weight = Field(0.0, description="history of titles -> semantic id of the next item")
    intention: Weight = Field(0.0, description="history and what the user looks for -> semantic id")
    query_to_id: Weight = Field(0.0, description="what a user looks for, alone -> semantic id")
    preference: Weight = Field(0.0, description="history of semantic ids -> what the user prefers, in words")


class InstructConfig(Config):
    """Weights of the alignment tasks, and where the texts about users come from.

    `columns` are what the data bring: `prepare.intention_columns`, and the column `preference` of the table `users`.
    `composed` texts are made of categories, brands and words of titles. `auto` composes where columns say nothing.
    """

    weights: TaskWeights = TaskWeights()
    intention: TextSource = Field("auto", description="of the tasks intention and query_to_id")
    preference: TextSource = Field("auto", description="of the task preference")
    max_examples: int = Field(
        100_000, ge=1, description="of a task that is 0 by default; of more windows of histories, a sample is taken"
    )
