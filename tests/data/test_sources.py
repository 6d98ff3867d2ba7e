"""Every raw format is recognised, read, and its bad rows named; fetched from a local server."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.config import Download, PrepareConfig
from recsys.data.dataset import Dataset, import_dataset, load_dataset
from recsys.data.profile import Profile
from recsys.data.raw import RAW_SCHEMA, Reading, Rejects
from recsys.data.sources import SOURCES
from recsys.errors import ConfigError, DataError
from recsys.tracking import NullTracker
from tests.data.conftest import Server, raw_bytes

AMAZON = {
    "amazon-2014": ("reviews_2014.json.gz", "meta_2014.json.gz", 4, {"A1", "A2"}),
    "amazon-2018": ("reviews_2018.json.gz", "meta_2018.json.gz", 2, {"A1"}),
    "amazon-2023": ("reviews_2023.jsonl.gz", "meta_2023.jsonl", 2, {"AE1"}),
}


def fetch(server: Server, work: Path, *names: str, rejects: Rejects | None = None) -> Dataset:
    server.files |= {name: raw_bytes(name) for name in names if name not in server.files}
    downloads = tuple(Download(url=f"{server.url}/{name}") for name in names)
    config = PrepareConfig(downloads=downloads, min_interactions=1, max_bad_share=0.7)
    return import_dataset(config, seed=0, work=work, rejects=rejects if rejects is not None else Rejects(10))


@pytest.mark.parametrize("kind", AMAZON)
def test_amazon_releases(kind: str, server: Server, tmp_path: Path) -> None:
    reviews, metadata, interactions, users = AMAZON[kind]
    dataset = fetch(server, tmp_path, reviews, metadata)
    assert dataset.card["kind"] == kind
    assert len(dataset.interactions) == interactions
    assert set(dataset.interactions.frame["user_id"]) == users
    assert dataset.card["time_unit"] == ("milliseconds" if kind == "amazon-2023" else "seconds")


def test_amazon_2014_metadata_are_python_literals(server: Server, tmp_path: Path) -> None:
    items = fetch(server, tmp_path, *AMAZON["amazon-2014"][:2]).catalog.frame
    assert items.row(0) == (
        "B01",
        "Rose \\u0026 Mint 'Soap'",
        "Prún",
        "Beauty > Bath > Soaps; Gifts",
        "Mild & fresh.",
    )
    assert items["item_id"].to_list() == ["B01", "B02", "B03"]
    assert items.row(2)[1:] == (None,) * 4


def test_amazon_2018_bad_lines_are_named(server: Server, tmp_path: Path) -> None:
    rejects = Rejects(2)
    dataset = fetch(server, tmp_path, *AMAZON["amazon-2018"][:2], rejects=rejects)
    assert dataset.card["rejected"] == {
        "reviews_2018.json.gz": {"malformed JSON": 1, "missing user id": 1, "unparsable time": 1}
    }
    assert [(row["row"], row["reason"]) for row in rejects.rows] == [(3, "missing user id"), (4, "malformed JSON")]
    assert dataset.catalog.frame.row(0)[1:] == ("Desk Lamp", "Lum", "Home > Lighting > Lamps", "Bright. Small.")
    assert dataset.card["repeated_items"] == 1


def test_movielens_dat_is_latin1_with_colons_in_titles(server: Server, tmp_path: Path) -> None:
    dataset = fetch(server, tmp_path, "ratings.dat", "movies.dat")
    assert dataset.interactions.frame["item_id"].to_list() == ["10", "20", "10"]
    assert dataset.catalog.frame.row(0) == ("10", "Amélie: A Tale (2001)", "Comedy, Romance")


def test_movielens_csv_in_a_zip(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("ratings.csv", "movies.csv"):
            archive.writestr(f"ml-tiny/{name}", raw_bytes(name))
    server.files["ml-tiny.zip"] = buffer.getvalue()
    dataset = fetch(server, tmp_path, "ml-tiny.zip")
    assert dataset.card["kind"] == "movielens"
    assert dataset.catalog.frame["title"].to_list() == ["Heat, The (1995)", "Ran (1985)"]


def test_a_cut_off_gzip_file_is_refused_by_name(folder: Callable[..., Path]) -> None:
    whole = raw_bytes("reviews_2014.json.gz")
    source = folder(**{"reviews.json_gz": whole[:-20]})
    with pytest.raises(DataError, match=r"reviews\.json\.gz is truncated"):
        load_dataset(source, min_interactions=1)


@pytest.mark.parametrize(
    ("name", "message"), [("missing", "does not exist"), ("empty", "an empty folder"), ("strange", r"found notes\.txt")]
)
def test_sources_that_hold_nothing_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name)


def test_no_source_and_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.source is not set"):
        import_dataset(PrepareConfig(), seed=0, work=tmp_path, rejects=Rejects(0))
    with pytest.raises(ConfigError, match="min_interaction"):
        load_dataset(tmp_path, min_interaction=2)


def test_two_files_of_reviews_are_refused(folder: Callable[..., Path]) -> None:
    source = folder(a_json=raw_bytes("reviews_2014.json"), b_json=raw_bytes("reviews_2018.json"))
    with pytest.raises(DataError, match=r"found a\.json, b\.json"):
        load_dataset(source)


SAMPLES = {
    "table": {
        "interactions.csv": b"user_id,item_id,timestamp\na,1,5\na,2,6\n",
        "items.csv": b"item_id,title\n1,One\n2,Two\n",
    },
    "movielens": {name: raw_bytes(name) for name in ("ratings.dat", "movies.dat")},
    **{kind: {name: raw_bytes(name) for name in names[:2]} for kind, names in AMAZON.items()},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_registered_format_is_recognized_and_read(kind: str, tmp_path: Path) -> None:
    for name, content in SAMPLES[kind].items():
        (tmp_path / name).write_bytes(content)
    assert [name for name, known in SOURCES.items() if known.matches(tmp_path)] == [kind]
    reading = Reading(PrepareConfig(max_bad_share=0.7), Rejects(10), NullTracker(), Profile())
    raw = SOURCES[kind].read(tmp_path, reading)
    interactions, items = reading.profile.tables
    roles = [column.role for column in interactions.columns]
    assert [roles.count(role) for role in ("user id", "item id", "time")] == [1, 1, 1]
    assert {column.role for column in items.columns} >= {"item id", "title"}
    assert all(column.first for found in (interactions, items) for column in found.columns if column.role != "ignored")
    assert reading.profile.time_examples
    assert raw.interactions.schema == RAW_SCHEMA
    assert len(raw.interactions)
    assert not raw.interactions.null_count().sum_horizontal().item()
    assert raw.items is not None
    assert raw.items["item_id"].is_unique().all()
    assert set(raw.items.dtypes) == {pl.String}
