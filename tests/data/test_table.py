"""User-provided tables: ids and times of many kinds, texts, and rejected rows."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset, import_dataset, load_dataset
from recsys.data.raw import Rejects
from recsys.errors import ConfigError, DataError

Folder = Callable[..., Path]
HEADER = "user_id,item_id,timestamp\n"


def rejected(source: Path, *, limit: int = 10) -> tuple[Dataset, Rejects]:
    rejects = Rejects(limit)
    config = PrepareConfig(source=str(source), min_interactions=1, max_bad_share=1)
    return import_dataset(config, seed=0, work=source, rejects=rejects), rejects


def test_bad_rows_are_reported_with_their_line(folder: Folder) -> None:
    source = folder(interactions_csv=HEADER + "u1,i1,1\n,i1,2\nu1,,3\nu1,i2\nu1,i2,soon\nu1,i3,7.9\n")
    dataset, rejects = rejected(source)
    assert [(row["row"], row["reason"], row["content"]) for row in rejects.rows] == [
        (3, "missing user id", "i1,2"),
        (4, "missing item id", "u1,3"),
        (5, "missing time", "u1,i2"),
        (6, "unparsable time", "u1,i2,soon"),
    ]
    assert dataset.interactions.frame["timestamp"].to_list() == [1000, 7900]
    assert dataset.card["time_scale"] == 1000
    assert dataset.card["rows"] == 6


def test_damaged_csv_is_read_row_by_row(folder: Folder) -> None:
    good = 'u1,i1,1\nü2,"i,2",2\nu1,i3,4\n'
    source = folder(interactions_csv=(HEADER + good).encode() + b"u1,i4,5,6\nu\xe9,i1,3\nu1,i5,6\n")
    dataset, rejects = rejected(source)
    assert [(row["row"], row["reason"]) for row in rejects.rows] == [(5, "too many fields"), (6, "not UTF-8")]
    assert dataset.interactions.frame["item_id"].to_list() == ["i1", "i3", "i5", "i,2"]
    assert "ü2" in dataset.interactions.frame["user_id"].to_list()


def test_only_the_first_bad_rows_are_kept_but_all_counted(folder: Folder) -> None:
    dataset, rejects = rejected(folder(interactions_csv=HEADER + "u1,i1,1\n" + ",i,1\n" * 30), limit=3)
    assert len(rejects.rows) == 3
    assert dataset.card["rejected"] == {"interactions.csv": {"missing user id": 30}}


def test_too_many_bad_rows_are_refused(folder: Folder) -> None:
    source = folder(interactions_csv=HEADER + "u1,i1,1\nu1,i2,x\n" + "u1,i3,4\n" * 8)
    with pytest.raises(DataError, match=r"1 of 10 rows cannot be used.*raise prepare\.max_bad_share"):
        load_dataset(source, min_interactions=1)


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), (HEADER, "holds no rows"), ("user,item_id,timestamp\na,b,1\n", "'user_id'")]
)
def test_empty_files_and_missing_columns_are_refused(text: str, message: str, folder: Folder) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(folder(interactions_csv=text))


def test_column_names_can_be_chosen(folder: Folder) -> None:
    source = folder(interactions_csv="who,what,when\na,7,5\n", items_csv="what,title\n7,Seven\n")
    dataset = load_dataset(source, user_column="who", item_column="what", time_column="when", min_interactions=1)
    assert dataset.catalog.frame.rows() == [("7", "Seven")]


def test_integer_ids_of_one_file_match_string_ids_of_the_other(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": [3, 4, 5]})
    frame.write_parquet(tmp_path / "interactions.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n8,Eight\n7,Seven\n9,Nine\n")
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.catalog.item_ids == ["8", "7"]
    assert dataset.card["items_without_interactions"] == 1
    assert load_dataset(tmp_path, min_interactions=1, keep_cold_items=True).catalog.item_ids == ["8", "7", "9"]


@pytest.mark.parametrize(
    "times",
    [
        ["2020-01-02", "2020-01-02T00:00:01Z", "2020-01-02T02:00:02+02:00"],
        [datetime(2020, 1, 2, 0, 0, s, tzinfo=UTC) for s in range(3)],
    ],
)
def test_dates_become_milliseconds(times: list[object], tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": times})
    frame.write_parquet(tmp_path / "interactions.parquet")
    dataset = load_dataset(tmp_path, min_interactions=1)
    start = 1_577_923_200_000
    assert dataset.interactions.frame["timestamp"].to_list() == [start, start + 1000, start + 2000]
    assert dataset.card["time_unit"] == "milliseconds"


def test_texts_of_all_kinds(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["u", "u", "u"], "item_id": ["a", "b", "x"], "timestamp": [1, 2, 3]}).write_parquet(
        tmp_path / "interactions.parquet"
    )
    pl.DataFrame(
        {
            "item_id": ["a", "b", "a"],
            "title": ["  Crème brûlée 🍮 ", "   ", "again"],
            "categories": [["Food", "Sweet"], None, []],
            "places": [["A > B", "A > C"], [], []],
            "tags": [["red", "round"], ["blue"], []],
            "price": [1.5, None, 2.0],
            "vector": [[0.1], [0.2], [0.3]],
        }
    ).write_parquet(tmp_path / "items.parquet")
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.catalog.frame.rows() == [
        ("a", "Crème brûlée 🍮", "Food > Sweet", "A > B; A > C", "red, round", "1.5"),
        ("b", None, None, None, "blue", None),
        ("x", None, None, None, None, None),
    ]
    card = dataset.card
    assert (card["ignored_item_columns"], card["repeated_items"]) == (["vector"], 1)
    assert (card["items_not_listed"], card["items_without_texts"]) == (1, 1)


def test_csv_and_parquet_of_one_table_are_refused(folder: Folder) -> None:
    source = folder(interactions_csv=HEADER, interactions_parquet=b"")
    with pytest.raises(DataError, match="keep one"):
        load_dataset(source)


def test_a_damaged_parquet_is_refused_by_name(folder: Folder) -> None:
    with pytest.raises(DataError, match=r"interactions\.parquet"):
        load_dataset(folder(interactions_parquet=b"PAR1 no parquet at all PAR1"))


SECONDS = 1_700_000_000


def csv(times: list[object]) -> str:
    return HEADER + "".join(f"u,i{row},{time}\n" for row, time in enumerate(times))


def test_one_odd_time_is_one_bad_row(folder: Folder) -> None:
    for odd, reason in (("0", "unparsable time"), ("1970-01-01", "implausible time")):
        times: list[object] = [f"2023-11-14 22:13:{second}" for second in range(10, 20)]
        dataset, rejects = rejected(folder(interactions_csv=csv([*times[:3], odd, *times[3:]])))
        assert [(row["row"], row["reason"], row["content"]) for row in rejects.rows] == [(5, reason, f"u,i3,{odd}")]
        assert len(dataset.interactions) == 10


def test_two_units_in_one_column_are_refused(folder: Folder) -> None:
    source = folder(interactions_csv=csv([SECONDS * 1000, SECONDS + 1, SECONDS + 2]))
    with pytest.raises(DataError, match=r"2 seconds, 1 milliseconds; 1700000001 in row 3, 1700000000000 in row 2"):
        load_dataset(source, min_interactions=1)
    assert len(load_dataset(source, min_interactions=1, check_times=False).interactions) == 3
    dataset, rejects = rejected(source)
    assert [(row["row"], row["reason"]) for row in rejects.rows] == [(2, "implausible time")]
    assert len(dataset.interactions) == 2


def test_dates_that_are_not_read_are_refused_with_those_that_are(folder: Folder) -> None:
    source = folder(interactions_csv=csv(["14/11/2023 22:13", "13/11/2023 22:13"]))
    message = r"'14/11/2023 22:13'; accepted: .*2023-11-14T22:13:20\.5Z.*; set prepare\.time_format, such as %d/%m/%Y"
    with pytest.raises(DataError, match=message):
        load_dataset(source, min_interactions=1)
    dataset = load_dataset(source, min_interactions=1, time_format="%d/%m/%Y %H:%M")
    assert dataset.interactions.frame["item_id"].to_list() == ["i1", "i0"]
    with pytest.raises(DataError, match=r"accepted: prepare\.time_format=%d-%m-%Y"):
        load_dataset(source, min_interactions=1, time_format="%d-%m-%Y")
    with pytest.raises(ConfigError, match="strptime"):
        load_dataset(source, time_format="dd/mm/yyyy")


def test_numbers_that_are_dates_have_their_unit(folder: Folder) -> None:
    dataset = load_dataset(folder(interactions_csv=csv([20231115, 20231114, 20231116])), min_interactions=1)
    assert dataset.interactions.frame["item_id"].to_list() == ["i1", "i0", "i2"]
    assert (dataset.card["time_unit"], dataset.card["first_time"]) == ("milliseconds", 1_699_920_000_000)


def test_fractions_order_a_users_rows(folder: Folder) -> None:
    dataset = load_dataset(folder(interactions_csv=csv([f"{SECONDS}.{k}" for k in (3, 1, 2)])), min_interactions=1)
    assert dataset.interactions.frame["item_id"].to_list() == ["i1", "i2", "i0"]
    assert (dataset.card["time_unit"], dataset.card["time_scale"]) == ("milliseconds", 1000)


def test_a_bad_row_does_not_change_how_the_others_are_read(folder: Folder) -> None:
    text = csv([3, 1, 2]).replace(",", ";")
    bad = "\n;;\nu;i9;4;extra\n"
    for content in (text, "\ufeff" + text):
        dataset, rejects = rejected(folder(interactions_csv=content + bad))
        assert dataset.interactions.frame["item_id"].to_list() == ["i1", "i2", "i0"]
        assert sorted((row["row"], row["reason"]) for row in rejects.rows) == [
            (5, "empty row"),
            (6, "missing user id"),
            (7, "too many fields"),
        ]


def test_empty_rows_are_counted_but_not_bad(folder: Folder) -> None:
    dataset = load_dataset(folder(interactions_csv=csv([1, 2]) + "\n\n"), min_interactions=1)
    assert dataset.card["rejected"] == {"interactions.csv": {"empty row": 2}}
