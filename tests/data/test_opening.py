"""Tables in files of every usual kind are read alike, and folders or files that hold none are refused."""

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from recsys.data.dataset import Dataset, load_dataset
from recsys.data.delimited import Layout
from recsys.data.opening import Table
from recsys.data.raw import Rejects
from recsys.errors import ConfigError, DataError

ROWS = [("u1", "i1, a", 3), ("ü2", "i2", 1), ("u1", "i2", 2), ("ü2", "i3", 4)]
READ = [("u1", "i2", 2), ("u1", "i1, a", 3), ("ü2", "i2", 1), ("ü2", "i3", 4)]
FRAME = pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row")


def text(separator: str = ",", *, header: bool = True, frame: pl.DataFrame = FRAME) -> bytes:
    return frame.write_csv(separator=separator, include_header=header).encode()


def zipped(content: bytes, name: str = "any.csv") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def rows(source: Path, **options: Any) -> list[tuple[Any, ...]]:
    dataset = load_dataset(source, min_interactions=1, **options)
    return dataset.interactions.frame.select("user_id", "item_id", "timestamp").rows()


BOM = b"\xef\xbb\xbf"
FILES = {
    "interactions.csv": text(),
    "interactions.tsv": text("\t"),
    "interactions.txt": text("|"),
    "interactions.CSV": text(";"),
    "interactions.csv.gz": gzip.compress(text()),
    "interactions.tsv.gz": gzip.compress(text("\t")),
    "interactions.csv.bz2": bz2.compress(text()),
    "interactions.csv.zst": zstandard(text()),
    "interactions.csv.zip": zipped(text(";")),
    "with-bom/interactions.csv": BOM + text(),
    "excel/interactions.csv": BOM + b"sep=;\r\n" + text(";").replace(b"\n", b"\r\n"),
    "utf16/interactions.csv": text("\t").decode().encode("utf-16"),
    "spaced/interactions.csv": text().replace(b"user_id,item_id", b" user_id , item_id"),
    "recbole/any.inter": text("\t").replace(
        b"user_id\titem_id\ttimestamp", b"user_id:token\titem_id:token\ttimestamp:float"
    ),
    "own/ratings.csv": text(),
    "own/clicks.parquet": None,
    "interactions.parquet": None,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_table_is_read_whatever_its_file(name: str, given: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    content = FILES[name]
    if content is None:
        FRAME.write_parquet(path)
    else:
        path.write_bytes(content)
    assert rows(path.parent if given == "folder" else path) == READ


def test_parts_as_spark_writes_them_are_one_table(tmp_path: Path) -> None:
    for table in ("interactions.parquet", "interactions.csv"):
        folder = tmp_path / table.split(".")[1] / table
        folder.mkdir(parents=True)
        (folder / "_SUCCESS").touch()
        (folder / "._SUCCESS.crc").write_text("x")
        if table.endswith("csv"):
            (folder / "part-00000.csv").touch()  # an empty partition
            (folder / "part-00001.csv.gz").write_bytes(gzip.compress(text(frame=FRAME[:1])))
            (folder / "part-00002.csv").write_bytes(text(frame=FRAME[1:]))
        else:
            FRAME[:3].write_parquet(folder / "part-00000.snappy.parquet")
            FRAME[3:].write_parquet(folder / "part-00001.snappy.parquet")
        assert rows(folder.parent) == rows(folder) == READ


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_folders_name_the_values_of_columns(suffix: str, tmp_path: Path) -> None:
    for time, part in (("2023-11-14 10%3A00", FRAME[:2]), ("2023-11-15", FRAME[2:])):
        folder = tmp_path / "interactions" / f"timestamp={time}"
        folder.mkdir(parents=True)
        frame = part.select("user_id", "item_id")
        (frame.write_parquet if suffix == "parquet" else frame.write_csv)(folder / f"part-0.{suffix}")
    expected = [("u1", "i1, a"), ("u1", "i2"), ("ü2", "i2"), ("ü2", "i3")]
    assert [row[:2] for row in rows(tmp_path)] == expected
    assert [row[:2] for row in rows(tmp_path / "interactions")] == expected
    assert rows(tmp_path)[0][2] == 1_699_956_000_000  # 10:00


def test_bad_rows_of_a_part_are_named_by_it(tmp_path: Path) -> None:
    folder = tmp_path / "interactions"
    folder.mkdir()
    (folder / "part-0.csv").write_bytes(text())
    (folder / "part-1.csv").write_bytes(text() + b",i1,5\n" + b"u1,i1,5,6\n")
    dataset = load_dataset(tmp_path, min_interactions=1, max_bad_share=0.3)
    assert dataset.card["rejected"] == {"interactions/part-1.csv": {"missing user id": 1, "too many fields": 1}}
    with pytest.raises(DataError, match="2 of 10 rows cannot be used"):
        load_dataset(tmp_path, min_interactions=1)


def test_recbole_items_are_found_beside_the_interactions(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t7\t5.5\n")
    (tmp_path / "x.item").write_text('item_id:token\tmovie_title:token_seq\n7\t12" lamp\n')
    dataset = load_dataset(tmp_path, min_interactions=1, title_column="movie_title")
    assert dataset.catalog.frame.rows(named=True) == [{"item_id": "7", "title": '12" lamp'}]
    assert dataset.interactions.frame["timestamp"].to_list() == [5500]


def test_a_file_without_header_needs_names(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_bytes(b"u1\ti1\t5\t3\nu1\ti2\t4\t2\n")
    names = ("user_id", "item_id", "stars", "timestamp")
    assert rows(tmp_path / "u.data", columns=names) == [("u1", "i2", 2), ("u1", "i1", 3)]
    with pytest.raises(DataError, match=r"prepare\.columns"):
        rows(tmp_path / "u.data")
    with pytest.raises(ConfigError, match="the first line has 4 fields"):
        rows(tmp_path / "u.data", columns=names[:3])


def test_the_order_of_rows_can_be_the_time(folder: Callable[..., Path]) -> None:
    source = folder(interactions_csv="user_id,item_id\nu,b\nv,a\nu,a\nu,b\n")
    dataset = load_dataset(source, min_interactions=1, row_order_is_time=True)
    assert dataset.interactions.frame["item_id"].to_list() == ["b", "a", "b", "a"]
    assert dataset.card["time_unit"] == "positions"


def test_a_separator_can_be_given(folder: Callable[..., Path]) -> None:
    source = folder(interactions_csv="user_id item_id timestamp\nu a;b 5\n")
    assert rows(source, separator=" ") == rows(source, separator="space") == [("u", "a;b", 5)]
    with pytest.raises(ConfigError, match=r"prepare\.separator"):
        rows(source, separator="::")


def test_items_may_lie_elsewhere_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "plays.csv").write_bytes(text())
    (tmp_path / "songs.csv").write_text("code;name;title\ni2;<i>Two</i>;Mr\n")
    options = {"items": tmp_path / "songs.csv", "items_item_column": "code", "title_column": "name"}
    with pytest.raises(DataError, match=r"found plays\.csv, songs\.csv.*prepare\.items"):
        load_dataset(tmp_path, min_interactions=1)
    dataset: Dataset = load_dataset(tmp_path / "plays.csv", min_interactions=1, **options)
    assert dataset.catalog.frame.row(0, named=True) == {"item_id": "i2", "title": "Two", "title_text": "Mr"}
    with pytest.raises(DataError, match="column 'names' is missing; found code, name, title"):
        load_dataset(tmp_path / "plays.csv", min_interactions=1, **options | {"title_column": "names"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (folder / "interactions").mkdir(), "interactions holds no files of a table"),
        (lambda folder: (folder / "interactions.parquet" / "_delta_log").mkdir(parents=True), "is a Delta table"),
        (lambda folder: (folder / "interactions.csv.gz").write_bytes(text()), r"csv\.gz is cut off or damaged"),
        (lambda folder: (folder / "interactions.csv.zip").write_bytes(text()), r"csv\.zip is cut off or damaged"),
        (lambda folder: (folder / "interactions.csv").write_bytes(text() + b'u,"i\nu,i,5\n'), "line 6: not valid csv"),
        (lambda folder: (folder / "notes.txt").write_text("x"), r"found notes\.txt"),
        (lambda folder: (folder / "inner").mkdir(), "found inner/"),
    ],
)
def test_what_holds_no_table_is_refused(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path, min_interactions=1)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(text() + b"u1,i1,5\n" * 99)[:-9])
    with pytest.raises(DataError, match="is cut off or damaged"):
        load_dataset(tmp_path, min_interactions=1)


def test_a_zip_keeps_the_folders_of_its_tables(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("export/interactions.csv/part-0.csv", text(frame=FRAME[:2]))
        archive.writestr("export/interactions.csv/part-1.csv", text(frame=FRAME[2:]))
        archive.writestr("export/items.csv", "item_id,title\ni2,Two\n")
        archive.writestr("__MACOSX/export/._items.csv", "junk")
    assert rows(tmp_path / "all.zip") == READ
    (tmp_path / "one.zip").write_bytes(zipped(text(), "folder/plays.csv"))
    assert rows(tmp_path / "one.zip") == READ


def test_own_ratings_are_no_movielens_and_a_guess_is_named(folder: Callable[..., Path]) -> None:
    own = folder(ratings_csv="user_id,item_id,rating,timestamp\nu,a,4,5\n")
    assert load_dataset(own, min_interactions=1).card["kind"] == "table"
    with pytest.raises(DataError, match=r"'userId' is missing.*prepare\.kind=table"):
        load_dataset(own, min_interactions=1, kind="movielens")
    movies = folder(ratings_csv="userId,movieId,rating,timestamp\nu,a,4,never\n")
    with pytest.raises(DataError, match=r"prepare\.kind=movielens is a guess"):
        load_dataset(movies, min_interactions=1)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "folder"])
def test_a_table_is_written_as_it_is_selected(name: str, tmp_path: Path) -> None:
    path, out = tmp_path / name, tmp_path / "out"
    out.mkdir()
    if name == "folder":
        for number in range(2):
            (path / f"day={number}").mkdir(parents=True)
            FRAME.write_parquet(path / f"day={number}" / "part-0.parquet")
    else:
        path.write_bytes(gzip.compress(text()) if name.endswith(".gz") else text())
        if name == "t.parquet":
            FRAME.write_parquet(path)
    table = Table(path, Layout(), Rejects(5))
    files = table.write(lambda schema: [pl.col("item_id"), pl.lit(len(schema)).alias("width")], out)
    assert len(files) == len(table.parts)
    wanted = table.select(lambda schema: [pl.col("item_id"), pl.lit(len(schema)).alias("width")])
    assert pl.read_parquet(files).rows() == wanted.select("item_id", "width").rows()


def test_rows_that_cannot_be_written_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('user_id,history\na,x\nb,x,y,z\nc,"x,y"\n')
    rejects = Rejects(5)
    (file,) = Table(tmp_path / "t.csv", Layout(), rejects).write(lambda _: [pl.col("user_id", "history")], tmp_path)
    assert pl.read_parquet(file).rows() == [("a", "x"), ("c", "x,y")]
    assert [(row["row"], row["reason"]) for row in rejects.rows] == [(3, "too many fields")]
