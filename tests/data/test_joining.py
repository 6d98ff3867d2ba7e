"""Ids of the interactions and of the items: joined, or refused with both forms named; never lost in silence."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.data.dataset import Dataset, load_dataset
from recsys.errors import DataError

Folder = Callable[..., Path]


def load(folder: Path, ids: pl.Series, listed: pl.Series) -> Dataset:
    interactions = {"user_id": ["u"] * len(ids), "item_id": ids, "timestamp": range(len(ids))}
    pl.DataFrame(interactions).write_parquet(folder / "interactions.parquet")
    titles = [f"title {number}" for number in range(len(listed))]
    pl.DataFrame({"item_id": listed, "title": titles}).write_parquet(folder / "items.parquet")
    return load_dataset(folder, min_interactions=1)


@pytest.mark.parametrize(
    ("ids", "listed"),
    [
        (pl.Series(["8.0", "9.0"]), pl.Series(["8", "9"])),
        (pl.Series(["8", "9"]), pl.Series(["8.0", "9.0"])),
        (pl.Series([8, 9]), pl.Series(["8.0", "9.0"])),
        (pl.Series([8.0, 9.0, float("nan")]).head(2), pl.Series([8, 9])),
        (pl.Series(["8.00", "9.00"]).cast(pl.Decimal(10, 2)), pl.Series([8, 9], dtype=pl.UInt16)),
        (pl.Series(["8", "9"], dtype=pl.Categorical), pl.Series([8.0, 9.0], dtype=pl.Float32)),
    ],
)
def test_whole_numbers_are_joined_whatever_their_type(ids: pl.Series, listed: pl.Series, tmp_path: Path) -> None:
    dataset = load(tmp_path, ids, listed)
    assert dataset.catalog.frame.rows() == [("8", "title 0"), ("9", "title 1")]
    assert dataset.interactions.frame["item_id"].to_list() == ["8", "9"]


@pytest.mark.parametrize(
    ("ids", "listed", "named"),
    [
        (pl.Series([7, 12]), pl.Series(["0007", "0012"]), "'12' against '0012'"),
        (pl.Series(["b01", "b02"]), pl.Series(["B01", "B02"]), "'b01' against 'B01'"),
        (pl.Series(["8.0", "x"]), pl.Series(["8", "x"]), "'8.0' against '8'"),
        (pl.Series(["1.0", "1.00"]), pl.Series(["1", "2"]), "'1.0' against '1'"),
    ],
)
def test_forms_that_may_differ_in_meaning_are_refused(
    ids: pl.Series, listed: pl.Series, named: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=named):
        load(tmp_path, ids, listed)


def test_items_that_match_nothing_are_refused(tmp_path: Path, folder: Folder) -> None:
    with pytest.raises(DataError, match=r"none of the 2 item ids .*'a', 'b'.* is among the 1 of .*'z'"):
        load(tmp_path, pl.Series(["a", "b"]), pl.Series(["z"]))
    (tmp_path / "items.parquet").unlink()
    folder(items_csv="item_id,title\n")
    with pytest.raises(DataError, match=r"items\.csv holds no items"):
        load_dataset(tmp_path, min_interactions=1)


def test_many_unlisted_items_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = load(tmp_path, pl.Series(["a", "b"]), pl.Series(["a"]))
    assert "1 of 2 items with interactions are not in the table of items, the first is 'b'" in caplog.text
    assert dataset.card["items_not_listed"] == 1


@pytest.mark.parametrize("ids", [[1.5, 2.0], [float(2**53), 2.0], [float("inf"), 2.0]])
def test_numbers_that_are_no_ids_are_bad_rows(ids: list[float], tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ids, "timestamp": [1, 2]})
    frame.write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="1 x item id is no whole number, first in row 1"):
        load_dataset(tmp_path, min_interactions=1)


@pytest.mark.parametrize("ids", [[True], [["a"]], [b"a"]])
def test_columns_that_hold_no_ids_are_refused(ids: list[Any], tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ids, "item_id": ["a"], "timestamp": [1]})
    frame.write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="ids are text or whole numbers"):
        load_dataset(tmp_path, min_interactions=1)


@pytest.mark.parametrize(("length", "usable"), [(256, True), (257, False)])
def test_ids_that_the_endpoint_would_refuse_are_bad_rows(length: int, usable: bool, folder: Folder) -> None:
    source = folder(interactions_csv=f"user_id,item_id,timestamp\nu,i,1\nu,{'é' * length},2\n")
    dataset = load_dataset(source, min_interactions=1, max_bad_share=0.5)
    assert len(dataset.interactions) == 1 + usable
    assert bool(dataset.card["rejected"]) is not usable
    broken = folder(interactions_csv='user_id,item_id,timestamp\nu,i,1\n"u\nv",i,2\n')
    found = load_dataset(broken, min_interactions=1, max_bad_share=0.5).card["rejected"]
    assert list(found["interactions.csv"]) == ["user id of more than 256 characters, or with a line break"]
