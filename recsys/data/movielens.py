"""MovieLens releases: ratings.dat and movies.dat (`::`, latin-1), or ratings.csv and movies.csv.

Every rating is an interaction, whatever its value; movies have `title` and `genres`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.data.raw import RawData, Reading, Rejects
from recsys.data.table import ROW, Columns, read_interactions, read_rows, usable_rows
from recsys.data.texts import LIST
from recsys.errors import DataError

_CSV = Columns("userId", "movieId", "timestamp")
_MOVIE_FIELDS = 3


def read_movielens(path: Path, reading: Reading) -> RawData:
    """Ratings as interactions, movies as items, of a folder or of that of a file.

    Raises:
        DataError: the ratings are empty or unreadable, or a file has too many bad rows.
    """
    folder, rejects = path.parent if path.is_file() else path, reading.rejects
    old = (folder / "ratings.dat").is_file()
    ratings = folder / ("ratings.dat" if old else "ratings.csv")
    movies = folder / ("movies.dat" if old else "movies.csv")
    frame = _old_ratings(ratings, rejects) if old else read_interactions(ratings, columns=_CSV, rejects=rejects)
    reading.check(ratings, frame.height)
    if not movies.is_file():
        return RawData(frame, None, {})
    rows = _old_movies(movies, rejects) if old else _csv_movies(movies, rejects)
    reading.check(movies, rows.height)
    genres = pl.col("genres").str.replace_all("|", LIST, literal=True)
    items = rows.with_columns(genres).unique("item_id", keep="first", maintain_order=True)
    return RawData(frame, items, {"repeated_items": rows.height - items.height})


def _old_ratings(path: Path, rejects: Rejects) -> pl.DataFrame:
    """`user::item::stars::time` split at single colons, so that every second field is empty."""
    names = ["user", "_1", "item", "_2", "stars", "_3", "time"]
    try:
        rows = pl.scan_csv(
            path, separator=":", has_header=False, new_columns=names, infer_schema=False, quote_char=None
        )
        return usable_rows(
            rows.with_row_index(ROW, offset=1), path, columns=Columns("user", "item", "time"), rejects=rejects
        )
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{path} is empty; ratings are needed, one a line: user::item::stars::time") from error
    except (pl.exceptions.ComputeError, pl.exceptions.ShapeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not written as user::item::stars::time ({reason}); download it again") from error


def _old_movies(path: Path, rejects: Rejects) -> pl.DataFrame:
    found: list[tuple[str, ...]] = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        fields = line.split("::")
        if len(fields) == _MOVIE_FIELDS and fields[0]:
            found.append(tuple(fields))
        elif line.strip():
            rejects.add(path, number, "not written as id::title::genres", line)
    return pl.DataFrame(found, schema=dict.fromkeys(("item_id", "title", "genres"), pl.String), orient="row")


def _csv_movies(path: Path, rejects: Rejects) -> pl.DataFrame:
    rows = read_rows(path, rejects=rejects)
    missing = [name for name in ("movieId", "title", "genres") if name not in rows.columns]
    if missing:
        raise DataError(f"{path}: column '{missing[0]}' is missing; found {', '.join(rows.columns)}; download it again")
    return rows.select(pl.col("movieId").alias("item_id"), "title", "genres").drop_nulls("item_id")
