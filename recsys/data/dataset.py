"""A dataset: split interactions and their catalogue, imported from a source or loaded from a run's 01_dataset.

Reads whatever `recsys.data.sources` reads; writes interactions.parquet, items.parquet, data_card.json and, where
the data have them, users.parquet and dislikes.parquet.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Self

import polars as pl
from pydantic import ValidationError

from recsys.data.advice import warnings_about
from recsys.data.card import build_catalog, describe
from recsys.data.cleaning import (
    Coded,
    check_order,
    encode,
    k_core,
    sort,
    sorted_by_id_share,
    time_unit,
    without_repeats,
)
from recsys.data.config import PrepareConfig
from recsys.data.disliked import Separated, of_dataset, separate
from recsys.data.profile import Profile
from recsys.data.profiling import SHOWN, date_examples, decimal_ids, items_found, sizes, times_found
from recsys.data.raw import RawData, Rejects
from recsys.data.sources import read_source
from recsys.data.splits import Splits, by_time, leave_one_out
from recsys.data.times import TimeUnit
from recsys.errors import ConfigError, DataError
from recsys.tables import INTENTION, WEIGHT, Catalog, Dislikes, Interactions, Users
from recsys.tracking import NullTracker, Tracker

_log = logging.getLogger(__name__)
USERS, DISLIKES = "users.parquet", "dislikes.parquet"
_REPORTED_ROWS = 10  # by `load_dataset`, whose errors name one


@dataclass(frozen=True, repr=False)
class Dataset:
    """Split interactions, the catalogue, and the data card: what was read, kept and dropped.

    `users` and `dislikes` are None where the source has none.
    """

    interactions: Interactions
    catalog: Catalog
    card: dict[str, Any]
    users: Users | None = None
    dislikes: Dislikes | None = None

    def __repr__(self) -> str:
        return f"<Dataset ({self.interactions!r}, {self.catalog!r})>"

    def save(self, folder: Path) -> None:
        """Write the dataset into an existing folder."""
        self.interactions.frame.write_parquet(folder / "interactions.parquet")
        self.catalog.frame.write_parquet(folder / "items.parquet")
        if self.users is not None:
            self.users.frame.write_parquet(folder / USERS)
        if self.dislikes is not None:
            self.dislikes.save(folder / DISLIKES)
        text = json.dumps(self.card, indent=2, ensure_ascii=False)
        (folder / "data_card.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        card = json.loads((folder / "data_card.json").read_text(encoding="utf-8"))
        return cls(
            Interactions.load(folder / "interactions.parquet"),
            Catalog.load(folder / "items.parquet"),
            card,
            Users.load(folder / USERS) if (folder / USERS).exists() else None,
            load_dislikes(folder),
        )


def load_dislikes(folder: Path) -> Dislikes | None:
    """Those of a dataset that was saved into a folder; None where it has none."""
    return Dislikes.load(folder / DISLIKES) if (folder / DISLIKES).exists() else None


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
    """Read, clean and split a source; log warnings. Unusable rows go to `rejects`, downloads to `work`.

    Raises:
        ConfigError: no source is given.
        DataError: data that cannot be used.
    """
    profile = Profile()
    dataset = profile_dataset(config, profile, seed=seed, work=work, rejects=rejects, tracker=tracker)
    for warning in profile.warnings:
        _log.warning("%s; %s", warning.message, warning.fix)
    return dataset


def profile_dataset(
    config: PrepareConfig, profile: Profile, *, seed: int, work: Path, rejects: Rejects, tracker: Tracker | None = None
) -> Dataset:
    """`import_dataset`, which fills `profile` as far as it comes and logs nothing."""
    try:
        raw = read_source(
            config, seed=seed, work=work, rejects=rejects, tracker=tracker or NullTracker(), profile=profile
        )
        dataset = _clean(raw, config, profile)
    finally:
        profile.counts |= {"rows": profile.counts.get("rows", 0) + len(rejects), "rejected": rejects.summary()}
        profile.rejected = rejects.rows[:SHOWN]
        profile.warnings = warnings_about(profile, config)
    return replace(dataset, card=profile.card())


def _clean(raw: RawData, config: PrepareConfig, profile: Profile) -> Dataset:
    """The dataset of usable rows; its card is not complete."""
    counts = profile.counts
    items, users, clock, separated = raw.items, raw.users, raw.clock, None
    counts |= {
        "source": config.source,
        **raw.notes,
        **({} if config.where is None else {"not_selected": raw.not_selected}),
        "rows": raw.interactions.height + (raw.not_selected or 0),
        "time_scale": clock.scale,
        "rejected": {},
    }
    if config.dislikes is not None:
        clock = clock._replace(unit=time_unit(without_repeats(sort(encode(raw.interactions)))[0], clock))
        separated = separate(raw.interactions)
        raw = raw._replace(interactions=separated.interactions)
    coded = encode(raw.interactions)
    del raw  # frees memory: there may be 20 million rows
    coded, counts["exact_duplicates"] = without_repeats(sort(coded))
    unit = time_unit(coded, clock)
    date_examples(profile, unit)
    profile.times = times_found(coded, unit, clock, by_rows=config.row_order_is_time, today=date.today())
    profile.before, profile.items = sizes(coded), items_found(items, coded)
    profile.decimal_ids = decimal_ids(coded)
    profile.sorted_by_id_share = sorted_by_id_share(coded)
    if config.check_order:
        check_order(profile.sorted_by_id_share)
    core = k_core(coded, config.min_interactions)
    counts |= {
        "outside_k_core": len(coded.users) - len(core.users),
        "min_interactions": config.min_interactions,
        "split": config.split,
    }
    profile.after = sizes(core)
    splits = _split(core, unit, config)
    counts |= describe(core, splits, unit)
    catalog, kept = build_catalog(items, core, keep_cold=config.keep_cold_items)
    counts |= kept
    del coded
    return _with_tables(Dataset(_interactions(core, splits), catalog, counts), users, separated)


def _with_tables(dataset: Dataset, listed: pl.DataFrame | None, separated: Separated | None) -> Dataset:
    """With users and dislikes, where the source has them; their counts are added to the card."""
    if separated is not None:
        dislikes, counts = of_dataset(separated.dislikes, dataset.interactions, dataset.catalog)
        dataset.card.update(separated.counts | counts)
        dataset = replace(dataset, dislikes=dislikes)
    if listed is not None:
        users, counts = _known_users(listed, dataset.interactions)
        dataset.card.update(counts)
        dataset = replace(dataset, users=users)
    return dataset


def _known_users(listed: pl.DataFrame, interactions: Interactions) -> tuple[Users, dict[str, int]]:
    """The users of a table who have interactions, and counts for the data card."""
    known = interactions.frame.select("user_id").unique()
    users = Users(listed.join(known, on="user_id", how="semi", maintain_order="left"))
    texts = [pl.col(name).is_null() for name in users.text_columns]
    return users, {
        "users_without_interactions": listed.height - len(users),
        "users_not_listed": known.height - len(users),
        "users_without_texts": users.frame.filter(pl.all_horizontal(texts)).height if texts else len(users),
    }


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
    if coded.weights is not None:
        columns[WEIGHT] = coded.weights
    if coded.intentions is not None:
        columns[INTENTION] = coded.intentions
    return Interactions(pl.DataFrame(columns))
