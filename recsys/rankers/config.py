"""What the recommend stage can be told: how items are decoded, how many, and whether seen ones may return."""

from typing import Literal

from pydantic import Field

from recsys.config import Config


class RecommendConfig(Config):
    """Rankings of `k` items a user from every system.

    `beams` is the width of the beam search; `exclude_seen: auto` leaves a history's items out unless the data has
    repeats, for all systems alike.
    """

    k: int = Field(default=50, ge=1, le=1024)
    beams: int = Field(default=50, ge=1, le=1024)
    batch_size: int = Field(default=128, ge=1, description="prompts decoded together")
    exclude_seen: Literal["auto", "always", "never"] = "auto"
    neighbours: int = Field(default=100, ge=1, description="neighbours an item keeps in item-kNN")
