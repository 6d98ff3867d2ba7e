"""Which rows of a source are interactions, which are dislikes, and how much an interaction counts.

`prepare.where` selects, `prepare.dislikes` names dislikes, whatever `where` says of them, and the weight is the product
of a column's and of an event type's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import polars as pl

from recsys.data.config import PrepareConfig
from recsys.data.expressions import Condition, comparable, parse_condition
from recsys.data.profile import Role
from recsys.errors import DataError

NOT_SELECTED, BAD_WEIGHT, NO_EVENT = "not selected", "unusable weight", "missing event type"
_NAMED = 10  # event types in a message


class Events(NamedTuple):
    """What a configuration says about events; empty where it says nothing."""

    where: Condition | None = None
    dislikes: Condition | None = None
    weight_column: str | None = None
    event_column: str | None = None
    event_weights: dict[str, float] = {}  # noqa: RUF012

    @classmethod
    def of(cls, config: PrepareConfig) -> Self:
        """Of a configuration, whose conditions have been checked."""
        where, dislikes = (text and parse_condition(text) for text in (config.where, config.dislikes))
        return cls(where or None, dislikes or None, config.weight_column, config.event_column, config.event_weights)

    @property
    def columns(self) -> list[str]:
        """All columns that are named, each once."""
        named = [name for condition in (self.where, self.dislikes) if condition for name in condition.columns]
        named += [name for name in (self.weight_column, self.event_column) if name is not None]
        return list(dict.fromkeys(named))

    @property
    def roles(self) -> dict[str, Role]:
        """What each column is read as."""
        roles: dict[str, Role] = dict.fromkeys(self.columns, "condition")
        if self.weight_column is not None:
            roles[self.weight_column] = "weight"
        if self.event_column is not None:
            roles[self.event_column] = "event type"
        return roles

    @property
    def weighted(self) -> bool:
        return self.weight_column is not None or self.event_column is not None

    def require(self, available: Iterable[str], path: Path) -> None:
        """Refuse settings that name a column which a table lacks.

        Raises:
            DataError: they do.
        """
        known = list(available)
        settings: dict[str, tuple[str | None, ...]] = {
            "where": () if self.where is None else self.where.columns,
            "dislikes": () if self.dislikes is None else self.dislikes.columns,
            "weight_column": (self.weight_column,),
            "event_column": (self.event_column,),
        }
        for setting, names in settings.items():
            for name in names:
                if name is not None and name not in known:
                    raise DataError(
                        f"{path}: prepare.{setting} names column '{name}', which is missing; found {', '.join(known)}"
                    )

    def judge(self, values: pl.DataFrame, path: Path) -> Judged:
        """What the settings make of rows, given their `columns`.

        Raises:
            DataError: a condition does not fit its columns, an event type has no weight, or no row is selected.
        """
        compared = values.select(comparable(values[name]) for name in values.columns)
        selected = disliked = pl.repeat(False, values.height, eager=True)
        if self.dislikes is not None:
            disliked = self.dislikes.holds(compared, "prepare.dislikes")
        kept = ~disliked if self.where is None else self.where.holds(compared, "prepare.where") & ~disliked
        selected = kept | disliked
        if not kept.any():
            raise DataError(
                f"{path}: none of {values.height} rows is selected by prepare.where={self.where and self.where.text!r} "
                f"and prepare.dislikes={self.dislikes and self.dislikes.text!r}"
            )
        frame = pl.DataFrame({"kept": kept, "reason": pl.Series([None], dtype=pl.String).new_from_index(0, len(kept))})
        frame = frame.with_columns(weight=pl.lit(1.0))
        types: dict[str, int] = {}
        if self.event_column is not None:
            frame, types = self._typed(frame, values[self.event_column], path)
        if self.weight_column is not None:
            frame = _weighted(frame, comparable(values[self.weight_column]))
        frame = frame.with_columns(pl.when("kept").then("reason"), pl.when("kept").then("weight").otherwise(1.0))
        weights = frame["weight"].cast(pl.Float32) if self.weighted else None
        return Judged(selected, disliked, weights, frame["reason"], types)

    def _typed(self, frame: pl.DataFrame, events: pl.Series, path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
        """With the weights of event types, and the selected rows of each."""
        text = events.cast(pl.String).str.strip_chars()
        text = text.set(text == "", None)
        counted = text.filter(frame["kept"]).drop_nulls().value_counts(sort=True)
        types = dict(counted.iter_rows())
        unnamed = [name for name in types if name not in self.event_weights]
        if unnamed:
            listed = ", ".join(f"{name!r} ({types[name]} rows)" for name in unnamed[:_NAMED])
            raise DataError(
                f"{path}: column '{self.event_column}' has event types without a weight: {listed}; name them in "
                f"prepare.event_weights ({', '.join(self.event_weights)}), or leave them out by prepare.where"
            )
        weight = text.replace_strict(self.event_weights, default=None, return_dtype=pl.Float64)
        reason = pl.when(text.is_null()).then(pl.lit(NO_EVENT)).otherwise("reason")
        return frame.with_columns(weight=weight.fill_null(1.0), reason=reason), types


class Judged(NamedTuple):
    """Rows as the settings see them.

    `selected` are interactions and dislikes, `disliked` the latter. `reasons` (String) say why an interaction cannot be
    used, null where it can. `weights` are Float32, None where none are asked for. `types` counts event types.
    """

    selected: pl.Series
    disliked: pl.Series
    weights: pl.Series | None
    reasons: pl.Series
    types: dict[str, int]

    def marks(self, events: Events) -> list[pl.Series]:
        """The columns of `recsys.data.raw.RawData.interactions` that the settings ask for."""
        found = [self.disliked.alias("disliked")] if events.dislikes is not None else []
        return found if self.weights is None else [*found, self.weights.alias("weight")]

    def notes(self) -> dict[str, Any]:
        """For the data card."""
        return {"event_types": self.types} if self.types else {}


def _weighted(frame: pl.DataFrame, column: pl.Series) -> pl.DataFrame:
    """With the weights of a column; what is no finite number from 0 on cannot be used."""
    numbers = pl.lit(column.cast(pl.Float32, strict=False).cast(pl.Float64))
    bad = numbers.is_null() | ~numbers.is_finite() | (numbers < 0)
    reason = pl.when(bad & pl.col("reason").is_null()).then(pl.lit(BAD_WEIGHT)).otherwise("reason")
    return frame.with_columns(weight=pl.col("weight") * pl.when(~bad).then(numbers), reason=reason)
