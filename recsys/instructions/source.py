"""What the alignment tasks make examples of: the catalogue, the training histories, and texts about users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from recsys.instructions.composition import CatalogTexts
from recsys.instructions.positions import TrainingPositions
from recsys.tables import BoolArray, Catalog, Histories, Users

PREFERENCE = "preference"  # the column of a table of users


@dataclass(frozen=True)
class TaskSource:
    """The catalogue and the training histories, which are cut into windows of at most `max_history` items.

    `intentions` [R] say what the user was looking for in each interaction of the histories, null where it is not known;
    `preferences` [U] what each user prefers. Both are None where the data have none.
    """

    catalog: Catalog
    histories: Histories
    max_history: int = 50
    intentions: pl.Series | None = None
    preferences: pl.Series | None = None

    @cached_property
    def texts(self) -> CatalogTexts:
        return CatalogTexts(self.catalog)

    @cached_property
    def positions(self) -> TrainingPositions:
        return TrainingPositions(self.histories, self.max_history)

    @property
    def stated(self) -> BoolArray:
        """[R], the interactions whose intention is known."""
        if self.intentions is None:
            return np.zeros(len(self.histories.items), np.bool_)
        return self.intentions.is_not_null().to_numpy()


def user_preferences(users: Users | None, histories: Histories) -> pl.Series | None:
    """What the users of histories prefer, in their order, null where it is not known; None without such a column."""
    if users is None or PREFERENCE not in users.text_columns:
        return None
    ids = pl.DataFrame({"user_id": histories.user_ids}, schema={"user_id": pl.String})
    return ids.join(users.frame, on="user_id", how="left", maintain_order="left")[PREFERENCE]
