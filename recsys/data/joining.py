"""Whether the ids of two tables are of one form: forms that differ are matched, or refused with both named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recsys.data.described import Noun
from recsys.errors import DataError

_WHOLE_DECIMAL = r"^-?\d+\.0+$"
_HINTS: dict[Noun, str] = {
    "item": "set prepare.item_column and prepare.items_item_column to columns of the same ids, or leave the items out",
    "user": "set prepare.user_column to a column of both tables with the same ids, or leave the users out",
}


class Joined(NamedTuple):
    """Both tables with ids of one form, and notes for the data card."""

    interactions: pl.DataFrame
    described: pl.DataFrame
    notes: dict[str, Any]


def join_ids(
    interactions: pl.DataFrame,
    described: pl.DataFrame,
    path: Path,
    described_path: Path,
    *,
    max_share: float,
    noun: Noun = "item",
) -> Joined:
    """Ids of one form; `interactions` has `RAW_SCHEMA`, `described` a unique `item_id`, or `user_id`.

    Where all ids of one table are whole numbers written with decimals (`8.0`) and those of the other are not, they are
    read as `8`. At most `max_share` of the interacted ids may match another but for their writing (case, leading
    zeros, decimals).

    Raises:
        DataError: more do, or no id of the interactions is in the other table.
    """
    name = f"{noun}_id"
    interacted = interactions[name].unique().cast(pl.String)
    listed = described[name]
    notes: dict[str, Any] = {}
    if _are_decimals(interacted) and not _are_decimals(listed):
        whole = _whole(interacted)
        names = dict(zip(interacted.to_list(), whole.to_list(), strict=True))
        column = interactions[name].cast(pl.String).replace_strict(names, return_dtype=pl.String)
        interactions = interactions.with_columns(column.cast(pl.Categorical))
        notes[f"{name}s_read_as_whole_numbers"] = path.name
        interacted = whole
    elif _are_decimals(listed) and not _are_decimals(interacted):
        described = described.with_columns(_whole(listed).alias(name))
        notes[f"{name}s_read_as_whole_numbers"] = described_path.name
        listed = described[name]
    _check(interacted, listed, path, described_path, max_share, noun)
    return Joined(interactions, described, notes)


def _are_decimals(ids: pl.Series) -> bool:
    """Whether all ids are whole numbers with decimals, and stay different without them."""
    return bool(ids.str.contains(_WHOLE_DECIMAL).all()) and _whole(ids).n_unique() == len(ids)


def _whole(ids: pl.Series) -> pl.Series:
    return ids.str.replace(r"\.0+$", "")


def _loose(ids: pl.Series) -> pl.DataFrame:
    """Ids, and what they are but for case, white space, leading zeros and decimals of zero."""
    plain = (
        ids.str.to_lowercase().str.replace_all(r"\s", "").str.replace(r"^(\d+)\.0+$", "$1").str.replace(r"^0+(.)", "$1")
    )
    return pl.DataFrame({"id": ids, "plain": plain})


def _check(
    interacted: pl.Series, listed: pl.Series, path: Path, described_path: Path, max_share: float, noun: Noun
) -> None:
    missing = interacted.filter(~interacted.is_in(listed.implode()))
    if missing.is_empty():
        return
    alike = _loose(missing).join(_loose(listed), on="plain", how="inner", suffix="_listed")
    if alike["id"].n_unique() > max_share * len(interacted):
        ours, theirs = alike.sort("id").select("id", "id_listed").row(0)
        raise DataError(
            f"{alike['id'].n_unique()} of {len(interacted)} {noun} ids of {path.name} match {described_path.name} only "
            f"but for their writing: {ours!r} against {theirs!r}; write ids as text, alike in both tables"
        )
    if len(missing) == len(interacted):
        shown, known = (", ".join(map(repr, ids.sort().head(3).to_list())) for ids in (interacted, listed))
        raise DataError(
            f"none of the {len(interacted)} {noun} ids of {path.name} ({shown}, ...) is among the {len(listed)} of "
            f"{described_path.name} ({known}, ...); {_HINTS[noun]}"
        )
