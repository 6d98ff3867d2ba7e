"""What users were looking for is read from columns of the interactions, row by row, through cleaning and splits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset, load_dataset
from recsys.data.histories import training_histories, training_intentions
from recsys.errors import ConfigError, DataError
from recsys.tables import Interactions

Folder = Callable[..., Path]
ROWS = """user_id,item_id,timestamp,query,review
u2,i2,300,a lid,
u1,i1,400,,<b>Good</b> pan
u2,i1,100,red &amp; blue,ignored
u1,i3,300,pot for soup,
u2,i3,200,,
u1,i2,100, ,
u1,i2,100,again,
u1,i4,500,held out,
u1,i5,600,held out,
u2,i5,900,held out,
u2,i4,800,held out,
"""


def load(source: Path, *columns: str) -> Dataset:
    return load_dataset(source, min_interactions=1, intention_columns=columns)


def test_a_row_keeps_the_first_text_of_the_columns(folder: Folder) -> None:
    dataset = load(folder(interactions_csv=ROWS), "query", "review")
    found = dataset.interactions.frame.select("user_id", "item_id", "intention").rows()
    assert found == [
        ("u2", "i1", "red & blue"),
        ("u2", "i3", None),
        ("u2", "i2", "a lid"),
        ("u2", "i4", "held out"),
        ("u2", "i5", "held out"),
        ("u1", "i2", None),  # the first of two equal rows is kept, with what it says
        ("u1", "i3", "pot for soup"),
        ("u1", "i1", "Good pan"),
        ("u1", "i4", "held out"),
        ("u1", "i5", "held out"),
    ]
    assert dataset.card["stated_intentions"] == 8


def test_those_of_training_are_in_the_order_of_its_histories(folder: Folder, tmp_path: Path) -> None:
    dataset = load(folder(interactions_csv=ROWS), "query")
    (tmp_path / "saved").mkdir()
    dataset.save(tmp_path / "saved")
    loaded = Dataset.load(tmp_path / "saved")
    stated = training_intentions(loaded.interactions)
    assert stated is not None
    histories = training_histories(loaded.interactions, loaded.catalog)
    items = [loaded.catalog.item_ids[item] for item in histories.items]
    assert list(zip(items, stated, strict=True)) == [
        ("i1", "red & blue"),
        ("i3", None),
        ("i2", "a lid"),
        ("i2", None),
        ("i3", "pot for soup"),
        ("i1", None),
    ]


def test_texts_are_not_kept_unless_they_are_asked_for(folder: Folder) -> None:
    dataset = load(folder(interactions_csv=ROWS))
    assert dataset.interactions.frame.columns == ["user_id", "item_id", "timestamp", "split"]
    assert training_intentions(dataset.interactions) is None
    assert "stated_intentions" not in dataset.card


def test_a_long_text_is_cut_and_a_column_of_vectors_states_nothing(tmp_path: Path) -> None:
    rows = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3], "review": ["x" * 900] * 3}
    pl.DataFrame(rows | {"query": [[0.5]] * 3}).write_parquet(tmp_path / "interactions.parquet")
    stated = load(tmp_path, "query", "review").interactions.intentions
    assert stated is not None
    assert stated.to_list() == ["x" * 500] * 3


def test_they_stay_with_their_rows_beside_weights_conditions_and_dislikes(folder: Folder) -> None:
    rows = "user_id,item_id,timestamp,query,stars\n" + "".join(f"u,i{n},{n},q{n},{n}\n" for n in (7, 1, 6, 2, 5, 3, 4))
    dataset = load_dataset(
        folder(interactions_csv=rows),
        min_interactions=1,
        intention_columns=["query"],
        weight_column="stars",
        where="stars > 2",
        dislikes="stars = 4",
    )
    assert dataset.interactions.frame["intention"].to_list() == ["q3", "q5", "q6", "q7"]
    np.testing.assert_array_equal(dataset.interactions.weights, [3, 5, 6, 7])


def test_a_missing_column_and_a_kind_that_reads_no_texts_are_refused(folder: Folder) -> None:
    source = folder(interactions_csv=ROWS)
    with pytest.raises(DataError, match=r"column 'querry' is missing.*prepare\.intention_columns"):
        load(source, "querry")
    with pytest.raises(ConfigError, match=r"intention_columns cannot be used with prepare\.kind=synthetic"):
        load_dataset("synthetic", intention_columns=["query"])
    with pytest.raises(DataError, match="'intention' is Int64"):
        Interactions(load(source).interactions.frame.with_columns(intention=pl.lit(1, pl.Int64)))
