"""Configuration of the index stage: which FAISS index, and the recall to tune it to. Does not import FAISS."""

from typing import Literal

from pydantic import Field

from recsys.config import Config

Metric = Literal["l2", "inner-product", "cosine"]


class IndexConfig(Config):
    """One index over item latents.

    `kind` is a key of `recsys.retrieval.kinds.KINDS`. `auto` chooses by the number of items: exact `flat` to 20,000,
    `hnsw` (`ivf-flat` with `frequent_deletes`) to a million, `ivf-sq8` to ten million, `ivf-rabitq` beyond. `factory`
    (a FAISS factory string) overrides it. The search effort is tuned to `recall` at `recall_at` items against exact
    search; by default the recall is .99 up to 200,000 items and .95 beyond. `hnsw_m` and `ef_construction` belong to
    `hnsw`, `nlist` to the `ivf` kinds (by default about four times the square root of the number of items).
    """

    kind: str = "auto"
    factory: str | None = Field(default=None, min_length=1)
    metric: Metric = "l2"
    recall: float | None = Field(default=None, gt=0, le=1)
    recall_at: int = Field(default=100, ge=1, le=2048)
    frequent_deletes: bool = False
    hnsw_m: int = Field(default=16, ge=4, le=128, description="links of an item in each layer of the graph (FAISS M)")
    ef_construction: int = Field(default=200, ge=8, le=4096)
    nlist: int | None = Field(default=None, ge=1)
    num_tuning_queries: int = Field(default=1000, ge=10, le=100_000)
