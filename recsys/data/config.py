"""Configuration of the prepare stage: where the data are, how to read, clean and split them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config

AUTO, SYNTHETIC = "auto", "synthetic"


class SyntheticConfig(Config):
    """Size of the generated dataset; `num_interactions` is approximate, the seed is the run's."""

    num_users: int = Field(default=2000, ge=1)
    num_items: int = Field(default=600, ge=60)
    num_interactions: int = Field(default=25_000, ge=1)


class Download(Config):
    """A file to fetch; with `sha256` (hex) its contents are verified."""

    url: str = Field(pattern=r"^https?://")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")


class PrepareConfig(Config):
    """Source, cleaning and splits.

    `source` is a folder or a file, or "synthetic"; `kind` names its format, a key of `recsys.data.sources.SOURCES`, or
    `auto`. `downloads` are fetched instead, into `download_folder` (kept) or a temporary folder. Columns apply to kind
    `table`. At most `max_bad_share` of a file's rows may be unusable; the first `reported_rows` of them are written to
    a file. `keep_cold_items` keeps items without interactions. `validation_share` and `test_share` (of all
    interactions) bound the windows of the time split. `max_history` is the number of newest items of a history that
    models read; training cuts longer histories into windows of this length.
    """

    source: str | None = None
    kind: str = AUTO
    downloads: tuple[Download, ...] = ()
    download_folder: Path | None = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str = "timestamp"
    min_interactions: int = Field(default=5, ge=1)
    keep_cold_items: bool = False
    check_order: bool = True
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    reported_rows: int = Field(default=1000, ge=0)
    split: Literal["leave-one-out", "time"] = "leave-one-out"
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    test_share: float = Field(default=0.1, gt=0, lt=1)
    max_history: int = Field(default=50, ge=2)
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _windows_leave_training(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share} and test_share {self.test_share} leave nothing to train on; "
                "their sum must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if len({self.user_column, self.item_column, self.time_column}) < 3:
            raise ValueError("user_column, item_column and time_column must be three different columns")
        return self
