"""Configuration of the recommend stage: how items are found, ranked and fused. Imports no model."""

from typing import Literal

from pydantic import Field

from recsys.config import Config

Method = Literal["reciprocal-rank", "weighted-sum", "log-linear"]


class FusionConfig(Config):
    """How rankings become one. `auto` takes the method that does best on validation users.

    `sources` (names of `recsys.ranking.registry`) may take part where a run has them; the weights that validation users
    give them say how much, and 0 leaves one out.
    """

    sources: tuple[str, ...] = Field(
        default=("generative", "generative-item-scored", "diffusion", "cross-entropy", "sasrec"), min_length=1
    )
    method: Method | Literal["auto"] = "auto"
    depth: int = Field(default=50, ge=1, le=1024, description="ranks of each source that take part")
    rank_constant: float = Field(default=60.0, gt=0, description="of reciprocal rank: 1 / (rank_constant + rank)")
    grid: int = Field(default=10, ge=1, le=30, description="weights tried are multiples of 1 / grid that sum to 1")


class RecommendConfig(Config):
    """Rankings of `k` items a user from every ranker, with seen items kept and with seen items left out.

    `num_beams` is the width of the beam search. `exclude_seen` says which of the two policies is served: `auto` leaves
    a history's items out unless a share of `repeat_share` of the training interactions or more repeat an item of their
    user. `terms` names the rankers that get a second row, `X-with-terms`, in which popularity and the generated
    category re-order their list. Parameters of rankers and the fusion are chosen on at most `tuning_users`
    validation users each.
    """

    k: int = Field(default=50, ge=1, le=1024)
    num_beams: int = Field(default=50, ge=1, le=1024)
    batch_size: int = Field(default=128, ge=1, description="prompts decoded together")
    exclude_seen: Literal["auto", "always", "never"] = "auto"
    repeat_share: float = Field(default=0.05, gt=0, le=1, description="of training interactions; see exclude_seen")
    item_knn_neighbors: int = Field(default=100, ge=1, description="neighbours an item keeps in item-kNN")
    neighbors_per_sample: int = Field(default=100, ge=1, le=2048, description="nearest items of each sampled latent")
    terms: tuple[str, ...] = (
        *("item-knn", "sasrec", "generative", "generative-item-scored"),
        *("regression", "cross-entropy", "diffusion"),
    )
    tuning_users: int = Field(default=5000, ge=1)
    fusion: FusionConfig = FusionConfig()
