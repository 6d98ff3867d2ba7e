"""Configuration of the evaluate stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recsys.config import Config


class EvaluateConfig(Config):
    """Metrics are computed at `cutoffs`; slices, significance and beyond-accuracy measures at `slice_cutoff`.

    `num_resamples` counts bootstrap resamples, and sign flips; `num_examples` counts users shown in the report.
    """

    cutoffs: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((1, 5, 10, 20, 50), min_length=1)
    slice_cutoff: int = Field(10, ge=1, le=1000)
    num_resamples: int = Field(10_000, ge=100, le=100_000)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    num_examples: int = Field(8, ge=0, le=100)
