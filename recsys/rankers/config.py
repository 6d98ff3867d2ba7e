"""What the recommend stage can be told: how items are found and fused, how many, and whether seen ones may return."""

from typing import Literal

from pydantic import Field

from recsys.config import Config
from recsys.fusion import FusionConfig


class RecommendConfig(Config):
    """Rankings of `k` items a user from every system.

    `beams` is the width of the beam search; `exclude_seen: auto` leaves a history's items out unless the data has
    repeats, for all systems alike. Scoring and fusion are chosen on at most `tuning_users` validation users.
    """

    k: int = Field(default=50, ge=1, le=1024)
    beams: int = Field(default=50, ge=1, le=1024)
    batch_size: int = Field(default=128, ge=1, description="prompts decoded together")
    exclude_seen: Literal["auto", "always", "never"] = "auto"
    neighbours: int = Field(default=100, ge=1, description="neighbours an item keeps in item-kNN")
    nearest: int = Field(default=100, ge=1, le=2048, description="items that each sampled latent is asked for")
    tuning_users: int = Field(default=5000, ge=1)
    fusion: FusionConfig = FusionConfig()
