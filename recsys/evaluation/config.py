"""What the evaluate stage can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recsys.config import Config


class EvaluateConfig(Config):
    """Metrics are read at `cutoffs`; slices, significance and what goes beyond accuracy at `slice_cutoff`.

    `resamples` is the number of bootstrap resamples and of sign flips, `examples` that of users shown in the report.
    """

    cutoffs: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((1, 5, 10, 20, 50), min_length=1)
    slice_cutoff: int = Field(10, ge=1, le=1000)
    resamples: int = Field(10_000, ge=100, le=100_000)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    examples: int = Field(8, ge=0, le=100)
