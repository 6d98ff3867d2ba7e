"""A dataset: split interactions and their catalogue, imported from a source or loaded from a run's 01_dataset.

Reads whatever `recsys.data.sources` reads; writes interactions.parquet, items.parquet, data_card.json.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl
from pydantic import ValidationError

from recsys.data.card import build_catalog, describe
from recsys.data.cleaning import Coded, check_order, encode, k_core, sort, time_unit, without_repeats
from recsys.data.config import PrepareConfig
from recsys.data.raw import Rejects
from recsys.data.sources import read_source
from recsys.data.splits import Splits, by_time, leave_one_out
from recsys.data.times import TimeUnit
from recsys.errors import ConfigError, DataError
from recsys.tables import Catalog, Interactions
from recsys.tracking import NullTracker, Tracker

_REPORTED_ROWS = 10  # by `load_dataset`, whose errors name one


@dataclass(frozen=True, repr=False)
class Dataset:
    """Split interactions, the catalogue, and the data card: what was read, kept and dropped."""

    interactions: Interactions
    catalog: Catalog
    card: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Dataset ({self.interactions!r}, {self.catalog!r})>"

    def save(self, folder: Path) -> None:
        """Write the dataset into an existing folder."""
        self.interactions.frame.write_parquet(folder / "interactions.parquet")
        self.catalog.frame.write_parquet(folder / "items.parquet")
        text = json.dumps(self.card, indent=2, ensure_ascii=False)
        (folder / "data_card.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        card = json.loads((folder / "data_card.json").read_text(encoding="utf-8"))
        return cls(Interactions.load(folder / "interactions.parquet"), Catalog.load(folder / "items.parquet"), card)


def load_dataset(source: str | Path, *, seed: int = 0, tracker: Tracker | None = None, **options: Any) -> Dataset:
    """Import a folder, a file or "synthetic" into memory; `options` are the other fields of `PrepareConfig`.

    Raises:
        ConfigError: an option that does not exist, or a value that is not allowed.
        DataError: data that cannot be used.
    """
    try:
        config = PrepareConfig(source=str(source), **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"load_dataset: {'.'.join(map(str, first['loc'])) or 'options'}: {first['msg']}") from error
    with tempfile.TemporaryDirectory() as work:
        return import_dataset(config, seed=seed, work=Path(work), rejects=Rejects(_REPORTED_ROWS), tracker=tracker)


def import_dataset(
    config: PrepareConfig, *, seed: int, work: Path, rejects: Rejects, tracker: Tracker | None = None
) -> Dataset:
    """Read, clean and split a source. Unusable rows go to `rejects`, downloads to `work`.

    Raises:
        ConfigError: no source is given.
        DataError: data that cannot be used.
    """
    raw = read_source(config, seed=seed, work=work, rejects=rejects, tracker=tracker or NullTracker())
    coded, items, notes = encode(raw.interactions), raw.items, {"source": config.source, **raw.notes}
    num_rows = len(coded.users)
    clock = raw.clock
    del raw  # frees memory: there may be 20 million rows
    coded, repeats = without_repeats(sort(coded))
    unit = time_unit(coded, clock)
    if config.check_order:
        check_order(coded)
    core = k_core(coded, config.min_interactions)
    reading = {
        "rows": num_rows + len(rejects),
        "time_scale": clock.scale,
        "rejected": rejects.summary(),
        "exact_duplicates": repeats,
        "outside_k_core": len(coded.users) - len(core.users),
        "min_interactions": config.min_interactions,
        "split": config.split,
    }
    splits = _split(core, unit, config)
    described = describe(core, splits, unit)
    catalog, kept = build_catalog(items, core, keep_cold=config.keep_cold_items)
    del coded
    return Dataset(_interactions(core, splits), catalog, {**notes, **reading, **described, **kept})


def _split(coded: Coded, unit: TimeUnit, config: PrepareConfig) -> Splits:
    if config.split == "leave-one-out":
        return leave_one_out(coded.users)
    if unit == "positions":
        raise DataError(
            "the time split needs real times, and these are positions (0, 1, 2, ... for every user); "
            "use prepare.split=leave-one-out, or a release with real times"
        )
    return by_time(coded.users, coded.times, validation_share=config.validation_share, test_share=config.test_share)


def _interactions(coded: Coded, splits: Splits) -> Interactions:
    columns = {
        "user_id": coded.user_ids.gather(coded.users),
        "item_id": coded.item_ids.gather(coded.items),
        "timestamp": coded.times,
        "split": splits,
    }
    return Interactions(pl.DataFrame(columns))
