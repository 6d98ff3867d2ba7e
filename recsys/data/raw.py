"""The output of every reader: interactions in file order, an items table, and rejected rows.

Reads nothing itself; `Rejects.save` writes rejected.jsonl.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recsys.data.config import PrepareConfig
from recsys.data.profile import Profile
from recsys.data.times import Clock
from recsys.errors import DataError
from recsys.tracking import Tracker

EMPTY_ROW = "empty row"  # reported, but no bad row
MAX_CONTENT = 300  # characters of a rejected row that are kept
SHOWN = 100  # of these, in a message
# Columns that interactions have where they are asked for.
MARKS = {"disliked": pl.Boolean, "weight": pl.Float32, "intention": pl.String}
RAW_SCHEMA = pl.Schema({"user_id": pl.Categorical(), "item_id": pl.Categorical(), "timestamp": pl.Int64()})


@dataclass
class Rejects:
    """Rejected rows: all of them counted by file and reason, the first `limit` kept."""

    limit: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, file: Path | str, row: int, reason: str, content: str) -> None:
        """Reject row number `row` (1 is the first line of a text file, the first row of a parquet file).

        A file of a folder in parts is given as `folder/part`.
        """
        name = file if isinstance(file, str) else file.name
        self.counts[name, reason] += 1
        if len(self.rows) < self.limit:
            self.rows.append({"file": name, "row": row, "reason": reason, "content": content[:MAX_CONTENT]})

    def check(self, file: Path, usable: int, *, max_share: float) -> None:
        """Refuse a file or folder of parts that has `usable` rows and more than `max_share` of all its rows rejected.

        Raises:
            DataError: there are too many.
        """
        own = {name for name, _ in self.counts if name == file.name or name.startswith(f"{file.name}/")}
        reasons: Counter[str] = Counter()
        for (name, reason), count in self.counts.items():
            if name in own and reason != EMPTY_ROW:
                reasons[reason] += count
        bad = reasons.total()
        num_rows = usable + bad
        if bad <= max_share * num_rows:
            return
        first = next((row for row in self.rows if row["file"] in own and row["reason"] in reasons), None)
        example = f", first in row {first['row']}: {first['content'][:SHOWN]!r}" if first else ""
        listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
        raise DataError(
            f"{file}: {bad} of {num_rows} rows cannot be used ({listed}{example}); at most {max_share:.2%} may be bad; "
            "correct the file, or raise prepare.max_bad_share"
        )

    def summary(self) -> dict[str, dict[str, int]]:
        """File name -> reason -> rows."""
        found: dict[str, dict[str, int]] = {}
        for (name, reason), count in sorted(self.counts.items()):
            found.setdefault(name, {})[reason] = count
        return found

    def save(self, path: Path) -> None:
        """Write the kept rows as JSON lines."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)


class Reading(NamedTuple):
    """Arguments of a reader: the settings, and where unusable rows, progress and findings go."""

    config: PrepareConfig
    rejects: Rejects
    tracker: Tracker
    profile: Profile

    def check(self, file: Path, usable: int) -> None:
        """Refuse a file with `usable` rows and too many rejected ones; see `Rejects.check`."""
        self.rejects.check(file, usable, max_share=self.config.max_bad_share)


class RawData(NamedTuple):
    """A source as read, before cleaning.

    `interactions` has `RAW_SCHEMA`, no nulls, file order, and, where the configuration asks for them, `disliked`
    (Boolean: the row says what its user does not want), `weight` (Float32) and `intention` (String, nulls allowed).
    `items` has a unique item_id and text columns (String), or is None where the source has no items table, as has
    `users` a unique user_id. `notes` go to the data card; `clock` says what the times mean. `not_selected` counts the
    rows that `prepare.where` leaves out, None where a reader does not look at it.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame | None
    notes: dict[str, Any]
    clock: Clock = Clock()
    users: pl.DataFrame | None = None
    not_selected: int | None = None
