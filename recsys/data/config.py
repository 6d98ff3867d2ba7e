"""Configuration of the prepare stage: where the data are, how to read, clean and split them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys.config import Config
from recsys.data.expressions import parse_condition

AUTO, SYNTHETIC = "auto", "synthetic"


class SyntheticConfig(Config):
    """Size of the generated dataset; `num_interactions` is approximate."""

    num_users: int = Field(default=2000, ge=1)
    num_items: int = Field(default=600, ge=60)
    num_interactions: int = Field(default=25_000, ge=1)
    seed: int | None = Field(default=None, description="of the generated dataset alone; none: the run's")


class Download(Config):
    """A file to fetch; with `sha256` (hex) its contents are verified."""

    url: str = Field(pattern=r"^https?://")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")


class PrepareConfig(Config):
    """Source, cleaning and splits.

    `source` is a folder or a file, or "synthetic"; `kind` names its format, a key of `recsys.data.sources.SOURCES`, or
    `auto`. `downloads` are fetched instead, into `download_folder` (kept) or a temporary folder.

    The following apply to kind `table`. `items` is the table of items where it does not lie beside the interactions.
    `separator` is found in the header of a text file where None; `columns` and `items_columns` name all columns of
    files without header. `items_item_column` (None: `item_column`) and `title_column` are columns of the items.
    `time_format` (strptime) is that of dates; `row_order_is_time` needs no times, and takes a user's rows as written.
    `check_times` looks for two units in one column, `check_order` for users sorted by item id.

    `where` selects rows by a condition over columns (`recsys.data.expressions`), `dislikes` names those that say what
    a user does not want. An interaction weighs what `weight_column` says, times the weight that `event_weights` gives
    its type in `event_column`. These apply to every kind of files.

    `intention_columns`, of kind `table`, say in words what a user was looking for: the first with a text counts.

    At most `max_bad_share` of a file's rows may be unusable; the first `reported_rows` of them are written to
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
    items: Path | None = None
    separator: str | None = None
    columns: tuple[str, ...] = ()
    items_columns: tuple[str, ...] = ()
    items_item_column: str | None = None
    title_column: str = "title"
    time_format: str | None = None
    row_order_is_time: bool = False
    where: str | None = None
    dislikes: str | None = None
    weight_column: str | None = None
    event_column: str | None = None
    event_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default={})
    intention_columns: tuple[str, ...] = ()
    check_times: bool = True
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

    @field_validator("time_format")
    @classmethod
    def _time_format_is_one(cls, value: str | None) -> str | None:
        if value is not None and not {"%d", "%D", "%F", "%j", "%s", "%e", "%c", "%x"} & set(
            re.findall("%[A-Za-z]", value)
        ):
            raise ValueError(
                f"got {value!r}; a format of dates in strptime's notation is needed, such as %d/%m/%Y %H:%M"
            )
        return value

    @field_validator("where", "dislikes")
    @classmethod
    def _is_condition(cls, value: str | None) -> str | None:
        if value is not None:
            parse_condition(value)
        return value

    @model_validator(mode="after")
    def _events_have_weights(self) -> Self:
        if (self.event_column is None) != (not self.event_weights):
            raise ValueError(
                "event_column and event_weights go together: the column of the types, and the weight of each, such as "
                "{view: 0.2, purchase: 1}"
            )
        return self

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if len({self.user_column, self.item_column, self.time_column}) < 3:
            raise ValueError("user_column, item_column and time_column must be three different columns")
        return self
