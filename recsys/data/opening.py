"""Opens tables, whatever files they are in: parquet or delimited text, packed or not, one file or a folder of parts.

Reads parquet, csv, tsv and other delimited text, each also as .gz, .zst, .bz2 or .zip; folders of part files, as Spark
writes them, with the columns that their folders name (`day=2023-11-14`); and RecBole's .inter, .item and .user files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import polars as pl

from recsys.data.delimited import Layout, TextForm, salvage_text, scan_text, text_form, unreadable
from recsys.data.raw import Rejects
from recsys.errors import DataError

ROW, PART = "__row__", "__part__"
_FIRST_ROWS = 20
PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data", ".inter", ".item", ".user")
_UNMISTAKABLE = (*PARQUET, ".csv", ".tsv")  # suffixes that nothing but a table has
PACKED = (".gz", ".zst", ".bz2", ".zip")
KINDS = "parquet, csv or tsv (also .gz, .zst, .bz2, .zip, or a folder of part files)"
ATOMIC = {"interactions": ".inter", "items": ".item", "users": ".user"}  # RecBole's suffixes
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_UNREADABLE = (pl.exceptions.PolarsError, OSError)


class Part(NamedTuple):
    """A file of a table, and the values of the columns that its folders name."""

    path: Path
    partition: dict[str, str | None]


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is written, without that of its packing: `.csv` of `a.csv.gz`."""
    name = path.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    return Path(name.removesuffix(packed)).suffix


def is_table_file(path: Path) -> bool:
    """Whether a file's name is one of a table."""
    return suffix_of(path) in (*PARQUET, *TEXT) and path.is_file()


def is_table_folder(path: Path) -> bool:
    """Whether a folder is one table in parts: by its name, its part files, or its partitions."""
    if not path.is_dir():
        return False
    return suffix_of(path) in (*PARQUET, *TEXT) or any(
        entry.name.startswith("part-") or entry.name == "_SUCCESS" or ("=" in entry.name and entry.is_dir())
        for entry in path.iterdir()
    )


def find_table(folder: Path, name: str) -> Path | None:
    """The file or folder of a table by its name, or None.

    Raises:
        DataError: there are several.
    """
    found = [entry for entry in sorted(folder.iterdir()) if _is_named(entry, name)]
    if len(found) > 1:
        raise DataError(f"{folder} has {' and '.join(entry.name for entry in found)}; keep one of them")
    return found[0] if found else None


def only_table(folder: Path, *, but: Collection[Path | None]) -> Path | None:
    """The only parquet, csv or tsv file of a folder besides others, or None."""
    found = [entry for entry in folder.iterdir() if suffix_of(entry) in _UNMISTAKABLE and entry.name[0] not in "._"]
    others = [entry for entry in found if entry not in but]
    return others[0] if len(others) == 1 else None


def _is_named(entry: Path, name: str) -> bool:
    if entry.name.startswith((".", "_")):
        return False
    if entry.is_dir():
        return entry.name.split(".")[0] == name and (entry.name == name or is_table_folder(entry))
    return is_table_file(entry) and (entry.name.split(".")[0] == name or suffix_of(entry) == ATOMIC.get(name))


def table_parts(path: Path) -> list[Part]:
    """The files of a table, in the order of their paths.

    Raises:
        DataError: a folder holds none, files of two kinds, or a table of which only a log knows the current files.
    """
    if path.is_file():
        return [Part(path, {})]
    if (path / "_delta_log").exists():
        raise DataError(f"{path} is a Delta table, whose log decides which files count; write it as parquet")
    files = [file for file in sorted(path.rglob("*")) if _is_part(file, path)]
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        raise DataError(f"{path} holds no files of a table; needed: {KINDS}")
    if len({suffix_of(file) in PARQUET for file in filled}) > 1:
        raise DataError(f"{path} holds parquet and text files; keep those of one kind")
    return [Part(file, _partition(file.relative_to(path).parts[:-1])) for file in filled]


def _is_part(file: Path, folder: Path) -> bool:
    hidden = any(name.startswith((".", "_")) for name in file.relative_to(folder).parts)
    return not hidden and file.is_file() and (is_table_file(file) or file.name.startswith("part-"))


def _partition(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = (name.split("=", 1) for name in folders if "=" in name)
    return {unquote(key): None if value == _NULL_PARTITION else unquote(value) for key, value in pairs}


class Table:
    """A table of one or more files, read column by column; rows that cannot be read go to `rejects`."""

    def __init__(self, path: Path, layout: Layout, rejects: Rejects) -> None:
        self.path, self.parts, self._rejects = path, table_parts(path), rejects
        self._layout = layout
        self._first: pl.DataFrame | None = None
        self.form: TextForm | None = None  # of the last text file
        self._frames = [self._scan(part) for part in self.parts]
        self.schemas = [self._schema(number) for number in range(len(self.parts))]

    def require(self, columns: Sequence[str], hint: str) -> None:
        """Refuse a table that lacks one of the columns.

        Raises:
            DataError: it does.
        """
        for part, schema in zip(self.parts, self.schemas, strict=True):
            for column in (name for name in columns if name not in schema):
                found = ", ".join(name for name in schema if name != ROW) or "no columns"
                raise DataError(f"{part.path}: column '{column}' is missing; found {found}; {hint}")

    def select(self, columns: Callable[[pl.Schema], Sequence[pl.Expr]]) -> pl.DataFrame:
        """Columns made of each file's, in the order of its rows, with the rows' numbers `ROW` and files `PART`.

        Raises:
            DataError: a file cannot be read.
        """
        parts = [self._select(number, columns) for number in range(len(self.parts))]
        return parts[0] if len(parts) == 1 else pl.concat(parts, how="diagonal_relaxed")

    def write(self, columns: Callable[[pl.Schema], Sequence[pl.Expr]], folder: Path) -> list[Path]:
        """Columns made of each file's, as a parquet file in `folder` each, without having them in memory.

        Raises:
            DataError: a file cannot be read.
        """
        paths = [folder / f"{number}.parquet" for number in range(len(self.parts))]
        for number, path in enumerate(paths):
            chosen = columns(self.schemas[number])
            try:
                self._frames[number].select(chosen).sink_parquet(path)
            except _UNREADABLE as error:
                self._salvage(number, error)
                path.unlink(missing_ok=True)
                # Under another name, as threads of the writing that failed may not have let go of the first.
                paths[number] = folder / f"{number}-readable.parquet"
                self._frames[number].select(chosen).sink_parquet(paths[number])
        return paths

    def first_rows(self) -> pl.DataFrame:
        """The first rows of the first file, with their numbers `ROW`.

        Raises:
            DataError: it cannot be read.
        """
        if self._first is None:
            try:
                self._first = self._frames[0].head(_FIRST_ROWS).collect()
            except _UNREADABLE as error:
                self._salvage(0, error)
                self._first = self._frames[0].head(_FIRST_ROWS).collect()
        return self._first

    def reject(self, rows: pl.DataFrame, reasons: pl.Series, *, shown: Sequence[str]) -> None:
        """Report rows (`ROW`, `PART`) with their reasons and, as far as they are kept, the columns `shown`."""
        kept = rows.head(max(0, self._rejects.limit - len(self._rejects.rows)))
        contents: dict[tuple[int, int], str] = {}
        for number in kept[PART].unique():
            wanted = kept.filter(pl.col(PART) == number).lazy().select(ROW)
            known = [name for name in shown if name in self.schemas[number]]
            joined = pl.concat_str(pl.col(known).cast(pl.String), separator=",", ignore_nulls=True)
            texts = self._frames[number].select(ROW, text=joined).join(wanted, on=ROW, how="semi").collect()
            contents |= {(number, row): text or "" for row, text in texts.iter_rows()}
        for (row, number), reason in zip(rows.select(ROW, PART).iter_rows(), reasons, strict=True):
            self._rejects.add(self._name(number), row, reason, contents.get((number, row), ""))

    def value(self, part: int, row: int, column: str) -> object:
        """One value as the file has it; for messages."""
        return self._frames[part].filter(pl.col(ROW) == row).select(column).collect().item()

    def _name(self, number: int) -> str:
        path = self.parts[number].path
        return path.relative_to(self.path.parent).as_posix()

    def _scan(self, part: Part) -> pl.LazyFrame:
        if suffix_of(part.path) in PARQUET:
            rows = pl.scan_parquet(part.path, hive_partitioning=False).with_row_index(ROW, offset=1)
        else:
            self.form = text_form(part.path, self._layout)
            rows = scan_text(part.path, self.form, ROW)
        return self._with_partition(rows, part)

    def _with_partition(self, rows: pl.LazyFrame, part: Part) -> pl.LazyFrame:
        return rows.with_columns(pl.lit(value, pl.String).alias(name) for name, value in part.partition.items())

    def _schema(self, number: int) -> pl.Schema:
        try:
            return self._frames[number].collect_schema()
        except _UNREADABLE as error:
            self._salvage(number, error)
            return self._frames[number].collect_schema()

    def _select(self, number: int, columns: Callable[[pl.Schema], Sequence[pl.Expr]]) -> pl.DataFrame:
        chosen = [pl.col(ROW), *columns(self.schemas[number])]
        try:
            frame = self._frames[number].select(chosen).collect(engine="streaming")
        except _UNREADABLE as error:
            self._salvage(number, error)
            frame = self._frames[number].select(chosen).collect()
        return frame.with_columns(pl.lit(number, pl.UInt16).alias(PART))

    def _salvage(self, number: int, error: Exception) -> None:
        """Read a text file that polars refuses row by row."""
        part = self.parts[number]
        if suffix_of(part.path) in PARQUET:
            reason = str(error).splitlines()[0]
            raise DataError(f"{part.path} cannot be read as parquet ({reason}); write it again") from error
        if isinstance(error, OSError):
            raise unreadable(part.path, error) from error
        rows = salvage_text(
            part.path, text_form(part.path, self._layout), ROW, name=self._name(number), rejects=self._rejects
        )
        self._frames[number] = self._with_partition(rows.lazy(), part)
