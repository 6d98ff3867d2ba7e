"""MovieLens releases: ratings.dat and movies.dat (`::`, latin-1), or ratings.csv and movies.csv.

Every rating is an interaction, whatever its value, unless `prepare.where` selects by `rating`; movies have `title` and
`genres`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.data.config import PrepareConfig
from recsys.data.delimited import Layout, text_form
from recsys.data.described import described_rows
from recsys.data.opening import Table
from recsys.data.profile import ITEMS, Role
from recsys.data.profiling import note_file, note_table
from recsys.data.raw import RawData, Reading
from recsys.data.table import Columns, TimedRows, read_interactions
from recsys.data.texts import LIST
from recsys.errors import ConfigError, DataError

_CSV = Columns("userId", "movieId", "timestamp")
_HINT = "set prepare.kind=table where this is a user-provided table"
_DAT = ("user", "_1", "item", "_2", "rating", "_3", "time")
_MOVIE_FIELDS = ("item_id", "title", "genres")
_ROLES: dict[str, Role] = {"movieId": "item id", "item_id": "item id", "title": "title", "genres": "text"}
_SETTINGS = (
    "max_bad_share",
    "check_times",
    "where",
    "dislikes",
    "weight_column",
    "event_column",
    "event_weights",
)


def is_movielens(path: Path) -> bool:
    """Whether a folder or file holds ratings in the form of MovieLens, whose columns a ratings.csv must have."""
    folder = path.parent if path.is_file() else path
    if path.is_file() and path.name not in ("ratings.dat", "ratings.csv"):
        return False
    if (folder / "ratings.dat").is_file():
        return True
    ratings = folder / "ratings.csv"
    return ratings.is_file() and ratings.stat().st_size > 0 and {*_CSV} <= {*text_form(ratings, Layout()).names}


def read_movielens(path: Path, reading: Reading) -> RawData:
    """Ratings as interactions, movies as items, of a folder or of that of a file.

    Raises:
        DataError: the ratings are empty or unreadable, or a file has too many bad rows.
    """
    folder = path.parent if path.is_file() else path
    old = (folder / "ratings.dat").is_file()
    movies = folder / ("movies.dat" if old else "movies.csv")
    # The configuration's other keys are those of user-provided tables.
    kept = {name: getattr(reading.config, name) for name in _SETTINGS}
    reading = reading._replace(config=PrepareConfig(**kept))
    if old:
        rows = _old_ratings(folder / "ratings.dat", reading)
    else:
        ratings = folder / "ratings.csv"
        rows = read_interactions(ratings, layout=Layout(), columns=_CSV, reading=reading, hint=_HINT)
    raw = RawData(rows.frame, None, rows.notes, rows.clock, not_selected=rows.not_selected)
    if not movies.is_file():
        return raw
    described = _old_movies(movies, reading) if old else _csv_movies(movies, reading)
    reading.check(movies, described.height)
    genres = pl.col("genres").str.replace_all("|", LIST, literal=True)
    items = described.with_columns(genres).unique("item_id", keep="first", maintain_order=True)
    return raw._replace(items=items, notes=raw.notes | {"repeated_items": described.height - items.height})


def _old_ratings(path: Path, reading: Reading) -> TimedRows:
    """`user::item::stars::time` split at single colons, so that every second field is empty."""
    try:
        layout = Layout(":", _DAT)
        return read_interactions(path, layout=layout, columns=Columns("user", "item", "time"), reading=reading)
    except ConfigError as error:
        raise DataError(f"{path} is not written as user::item::stars::time; download it again") from error


def _old_movies(path: Path, reading: Reading) -> pl.DataFrame:
    found: list[tuple[str, ...]] = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        fields = line.split("::")
        if len(fields) == len(_MOVIE_FIELDS) and fields[0]:
            found.append(tuple(fields))
        elif line.strip():
            reading.rejects.add(path, number, "not written as id::title::genres", line)
    if found:
        note_file(
            reading.profile, ITEMS, path, "text, double colons", dict(zip(_MOVIE_FIELDS, found[0], strict=True)), _ROLES
        )
    return pl.DataFrame(found, schema=dict.fromkeys(_MOVIE_FIELDS, pl.String), orient="row")


def _csv_movies(path: Path, reading: Reading) -> pl.DataFrame:
    table = Table(path, Layout(), reading.rejects)
    note_table(reading.profile, ITEMS, table, _ROLES, others="ignored")
    table.require(("movieId", "title", "genres"), "download it again")
    return described_rows(table, "movieId", reading).frame.select("item_id", "title", "genres")
