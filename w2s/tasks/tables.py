"""Reading JSONL, CSV, TSV and Parquet files into columns, with errors that name file, line and key."""

import csv
import difflib
import gzip
import io
import itertools
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from w2s.errors import DataError
from w2s.fingerprints import HashFile

KINDS = ("jsonl", "csv", "tsv", "parquet")
PIECE = 20_000
"""Rows of a piece of a large source."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of an escaped character in JSON; without the other half it is no character, and cannot be written as UTF-8."""


@dataclass(frozen=True)
class Table:
    """Some columns of a source, and where each row stands in it, for error messages."""

    source: str
    columns: Mapping[str, list[Any]]
    numbers: Sequence[int]
    """Line (text files) or row numbers, from 1."""
    unit: str

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, row: int) -> str:
        """E.g. "/data/train.jsonl, line 7"."""
        return f"{self.source}, {self.unit} {self.numbers[row]}"


def file_kind(path: Path, *, also: tuple[str, ...] = ()) -> str:
    """The format by the file's name: "jsonl", "csv", "tsv" or "parquet" (or one of `also`); .gz is looked through.

    Raises:
        DataError: Another ending.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = bool(suffixes) and suffixes[-1] == ".gz"
    kind = (suffixes[:-1] if gzipped else suffixes)[-1:]
    name = kind[0].removeprefix(".") if kind else ""
    if name not in KINDS + also or (gzipped and name == "parquet"):
        known = ", ".join(f".{kind}" for kind in (*KINDS, *also))
        raise DataError(f"{path}: unknown kind of file; names end in {known}, all but .parquet also with .gz behind it")
    return name


def file_identity(path: Path, hash_file: HashFile, *, also: tuple[str, ...] = ()) -> list[str]:
    """What of a file determines the rows read from it: its kind and its bytes, not its name.

    Raises:
        DataError: The file is missing, or of an unknown kind.
    """
    require_file(path)
    return [file_kind(path, also=also), hash_file(path)]


def require_file(path: Path) -> None:
    """Raises DataError unless `path` is a file."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the files in it")
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) or ("" if path.parent.is_dir() else f"; there is no folder {path.parent}")
        raise DataError(f"{path}: no such file{hint}")


def nearest(name: str, options: Iterable[str]) -> str:
    """'; did you mean "label"?', or nothing if no option comes near."""
    close = difflib.get_close_matches(name, list(options), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def read_table(
    path: Path,
    *,
    wanted: Collection[str],
    names: Sequence[str] | None = None,
    also: tuple[str, ...] = (),
    limit: int | None = None,
) -> Table:
    """Read the wanted columns of one file. See `read_pieces`.

    Args:
        limit: No more than this many rows (or, of JSONL, lines), for a first look.
    """
    pieces = list(read_pieces(path, wanted=wanted, names=names, also=also, limit=limit))
    if len(pieces) == 1:
        return pieces[0]
    columns = {name: [cell for piece in pieces for cell in piece.columns[name]] for name in pieces[0].columns}
    return Table(str(path), columns, [number for piece in pieces for number in piece.numbers], pieces[0].unit)


def read_pieces(
    path: Path,
    *,
    wanted: Collection[str],
    names: Sequence[str] | None = None,
    also: tuple[str, ...] = (),
    limit: int | None = None,
) -> Iterator[Table]:
    """Read the wanted columns of one file piece by piece, so that memory holds no more of it than is kept.

    TSV cells hold no quotes or escapes, as in GLUE: a tab always ends a cell and a line break a row. CSV follows RFC
    4180. Cells of both are text. Blank lines are skipped. A .txt file has one column, `text`.

    Args:
        path: The file; .gz is looked through.
        wanted: Columns to keep.
        names: Column names, for CSV and TSV files without a header.
        also: ("txt",) where lines of text will do.
        limit: No more than this many rows (or, of JSONL, lines), for a first look.

    Raises:
        DataError: The file is missing, empty, damaged, cannot be parsed (naming the line), or lacks a wanted column.
    """
    require_file(path)
    kind = file_kind(path, also=also)
    with _readable(path):
        if kind == "parquet":
            yield from _read_parquet(path, wanted, limit)
        elif kind == "jsonl":
            yield from _read_jsonl(path, wanted, limit)
        elif kind == "txt":
            rows = ((number, [line]) for number, line in _lines(path) if line.strip())
            yield from _from_rows(path, rows, ["text"], wanted, limit)
        else:
            rows = _csv_rows(path) if kind == "csv" else _tsv_rows(path)
            yield from _from_rows(path, rows, None if names is None else list(names), wanted, limit)


def table_columns(path: Path) -> list[str]:
    """Names of a file's columns: of the header, the schema, or, for JSONL, the keys of the first object.

    Raises:
        DataError: The file is missing, empty or damaged.
    """
    require_file(path)
    kind = file_kind(path)
    with _readable(path):
        if kind == "parquet":
            return list(pl.read_parquet_schema(path))
        if kind == "jsonl":
            line = next((line for _, line in _lines(path) if line.strip()), "")
            try:
                first = json.loads(line)
            except json.JSONDecodeError:
                return []  # reading the file says which line is wrong
            return list(first) if isinstance(first, dict) else []
        rows = _csv_rows(path) if kind == "csv" else _tsv_rows(path)
        return next(rows, (0, []))[1]


def read_aligned(texts: Path, labels: Path) -> Table:
    """A file of texts and one of labels, line by line; columns `text` and `label`. Blank lines are rows.

    Raises:
        DataError: A file cannot be read, or they differ in length.
    """
    with _readable(texts):
        lines = [line for _, line in _lines(texts)]
    with _readable(labels):
        values = [line for _, line in _lines(labels)]
    if len(lines) != len(values):
        raise DataError(f"{texts} has {len(lines)} lines, but {labels.name} {len(values)}: they are read side by side")
    return Table(str(texts), {"text": lines, "label": values}, range(1, len(lines) + 1), "line")


def require_columns(source: str, wanted: Iterable[str], present: Collection[str]) -> None:
    """Raises DataError that says which columns exist, if a wanted one does not."""
    for name in wanted:
        if name not in present:
            shown = ", ".join(map(repr, sorted(present)[:30])) + (", ..." if len(present) > 30 else "")
            raise DataError(f"{source}: no column {name!r}{nearest(name, present)} (columns: {shown})")


def text_of(table: Table, column: str, row: int) -> str:
    """A cell as text; numbers and booleans are written out.

    Raises:
        DataError: The cell is null, or a list or mapping.
    """
    value = table.columns[column][row]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if value is None:
        raise DataError(f"{table.where(row)}: {column!r} is null; a text is needed")
    raise DataError(f"{table.where(row)}: {column!r} is a {type(value).__name__}; a text is needed")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what damaged files raise into one message."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path}{_undecodable(path)}: not UTF-8 text ({error.reason}); convert it to UTF-8") from error
    except (gzip.BadGzipFile, EOFError, OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _undecodable(path: Path) -> str:
    """ ", line 7", the first that is not UTF-8: a decoder that reads ahead knows only the place in its buffer."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not is_utf8(line):
                return f", line {number}"
    return ""


def is_utf8(text: str | bytes) -> bool:
    """Whether bytes are UTF-8, or a text can be written as such: one with half a surrogate pair cannot."""
    try:
        _ = text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True


def _open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.GzipFile(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _open(path: Path) -> io.TextIOWrapper:
    # newline="" keeps line breaks inside quoted CSV cells as they are; utf-8-sig drops a byte order mark.
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines. Only "\\n" ends a line: texts may hold other separators, such as U+2028."""
    with _open(path) as file:
        file.reconfigure(newline="\n")
        for number, line in enumerate(file, start=1):
            yield number, line.removesuffix("\n").removesuffix("\r")


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in _lines(path) if line.strip())


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses cells above 128 KiB
    try:
        with _open(path) as file:
            reader, start = csv.reader(file, strict=True), 1
            try:
                for cells in reader:
                    if cells:
                        yield start, cells
                    start = reader.line_num + 1
            except csv.Error as error:
                raise DataError(f"{path}, line {start}: not valid CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _from_rows(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    names: list[str] | None,
    wanted: Collection[str],
    limit: int | None,
) -> Iterator[Table]:
    if names is None:
        names = next(rows, (0, None))[1]
        if names is None:
            raise DataError(f"{path}: the file is empty")
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise DataError(f"{path}: column {min(doubled)!r} occurs more than once")
    if not set(wanted) <= set(names):
        first = next(rows, None)
        if first is None:
            raise DataError(f"{path}: the file is empty")
        require_columns(str(path), wanted, names)
    places = {name: names.index(name) for name in wanted}
    piece = _Piece(path, wanted)
    empty = True
    for number, cells in itertools.islice(rows, limit):
        if len(cells) != len(names):
            expected = f"{len(names)} ({', '.join(names)})"
            raise DataError(f"{path}, line {number}: {len(cells)} cells where {expected} are expected")
        piece.add(number, {name: cells[place] for name, place in places.items()})
        if len(piece) == PIECE:
            empty = False
            yield piece.taken()
    if empty and not len(piece):
        raise DataError(f"{path}: the file has no rows")
    if len(piece):
        yield piece.taken()


class _Piece:
    """Rows of a text file that wait to be a table."""

    def __init__(self, path: Path, wanted: Collection[str]) -> None:
        self.path = path
        self.columns: dict[str, list[Any]] = {name: [] for name in wanted}
        self.numbers: list[int] = []

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        for name, values in self.columns.items():
            values.append(row.get(name))
        self.numbers.append(number)

    def taken(self) -> Table:
        """The rows so far; the next piece begins."""
        table = Table(str(self.path), self.columns, self.numbers, "line")
        self.columns, self.numbers = {name: [] for name in self.columns}, []
        return table

    def __len__(self) -> int:
        return len(self.numbers)


def _read_jsonl(path: Path, wanted: Collection[str], limit: int | None) -> Iterator[Table]:
    piece = _Piece(path, wanted)
    present: set[str] = set()
    empty = True
    for number, line in itertools.islice(_lines(path), limit):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a {type(row).__name__} where a JSON object is expected")
        if _SURROGATE.search(line):
            _require_characters(path, number, row, wanted)
        present.update(row)
        piece.add(number, row)
        # A column that no row had yet may still come, or is missing: that is said before any row is used.
        if len(piece) >= PIECE and present.issuperset(wanted):
            empty = False
            yield piece.taken()
    if empty and not len(piece):
        raise DataError(f"{path}: the file is empty")
    require_columns(str(path), wanted, present)
    if len(piece):
        yield piece.taken()


def _require_characters(path: Path, number: int, row: Mapping[str, Any], wanted: Collection[str]) -> None:
    for name in sorted(wanted):
        if not is_utf8(json.dumps(row.get(name), ensure_ascii=False)):
            raise DataError(
                f"{path}, line {number}: {name!r} holds half of an escaped character (\\ud800 to \\udfff without the"
                " other half), perhaps because the text was cut there; write the whole character, or leave it out"
            )


def _read_parquet(path: Path, wanted: Collection[str], limit: int | None) -> Iterator[Table]:
    require_columns(str(path), wanted, pl.read_parquet_schema(path))
    rows = pl.scan_parquet(path, glob=False, n_rows=limit).select(sorted(wanted))
    read = 0
    for frame in rows.collect_batches(chunk_size=PIECE, maintain_order=True):
        if frame.height:
            numbers = range(read + 1, read + frame.height + 1)
            yield Table(str(path), frame.to_dict(as_series=False), numbers, "row")
            read += frame.height
    if not read:
        raise DataError(f"{path}: the file has no rows")
