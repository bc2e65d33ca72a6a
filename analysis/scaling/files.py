"""Tables from files, one comparison in words, and folders of results that appear whole or not at all."""

import difflib
import gzip
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any

import fsspec
import polars as pl

from analysis.errors import AnalysisError

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
MARK = "fit.json"
"""The file by which a folder is known to be ours, and may be replaced."""
MADE_BY = "w2s fit"
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {"==": eq, "!=": ne, "<=": le, ">=": ge, "<": lt, ">": gt}
_COMPARISON = re.compile(r"\s*(?P<column>.+?)\s*(?P<operator>==|!=|<=|>=|<|>|=)\s*(?P<value>.*?)\s*", re.DOTALL)


def read_table(path: str | os.PathLike[str]) -> pl.DataFrame:
    """A CSV, TSV, Parquet or JSON-lines file, also gzip-compressed (`.gz`), from a folder or a URL known to fsspec.

    Raises:
        AnalysisError: No such file, an unknown ending, or content that is not what the ending says.
    """
    name = os.fspath(path)
    plain = name[:-3] if name.lower().endswith(".gz") else name
    ending = os.path.splitext(plain)[1].lower()
    if ending not in FORMATS:
        raise AnalysisError(f"{name}: the file's ending must be one of {', '.join(FORMATS)}, or one of them with .gz")
    try:
        with fsspec.open(name, "rb") as file:
            raw = file.read()  # type: ignore[union-attr]
        if plain != name:
            raw = gzip.decompress(raw)
        table = _parse(raw, ending)
    except FileNotFoundError:
        raise AnalysisError(f"{name}: no such file") from None
    except (OSError, EOFError) as error:
        raise AnalysisError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:  # fsspec, of a protocol it does not know
        raise AnalysisError(f"{name} cannot be read: {error}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        first = str(error).strip().splitlines()[0]
        raise AnalysisError(f"{name} cannot be read as {ending[1:]}: {first}") from None
    if table.is_empty():
        raise AnalysisError(f"{name}: the table has no rows")
    return table


def _parse(raw: bytes, ending: str) -> pl.DataFrame:
    if ending == ".parquet":
        return pl.read_parquet(io.BytesIO(raw))
    if ending in (".jsonl", ".ndjson"):
        return pl.read_ndjson(io.BytesIO(raw), infer_schema_length=None)
    header = raw[:10_000].split(b"\n", 1)[0]
    separator = "\t" if ending == ".tsv" else ","
    if ending == ".csv" and b"," not in header:  # as spreadsheets of some countries write it
        separator = ";" if b";" in header else "\t" if b"\t" in header else ","
    return pl.read_csv(io.BytesIO(raw), separator=separator, infer_schema_length=None, try_parse_dates=False)


def require_table(table: Any) -> None:
    """Refuse what is no polars frame, and say how to make one of it.

    Raises:
        AnalysisError: Another kind of table, a path, a dictionary.
    """
    if isinstance(table, pl.DataFrame):
        return
    if isinstance(table, pl.LazyFrame):
        how = "collect it first, table.collect()"
    elif isinstance(table, (str, os.PathLike)):
        how = f"read it first, pl.read_csv({os.fspath(table)!r}), or pl.read_parquet"
    elif type(table).__module__.split(".")[0] == "pandas":
        how = "convert it first, pl.from_pandas(table)"
    else:
        how = "make one first: pl.DataFrame(table) of a dictionary of columns, pl.from_pandas of a pandas frame"
    raise AnalysisError(f"the table must be a polars DataFrame, got {type(table).__name__}; {how}")


def require_columns(table: pl.DataFrame, columns: Iterable[str]) -> None:
    """Refuse names that are no columns, with the nearest one that is.

    Raises:
        AnalysisError: A column is missing.
    """
    for column in columns:
        if column in table.columns:
            continue
        raise AnalysisError(
            f"there is no column {column!r}{did_you_mean(column, table.columns)}; "
            f"the columns are {', '.join(map(repr, table.columns))}"
        )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ "; did you mean 'loss'?", or nothing where no name is near."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def rows_where(table: pl.DataFrame, condition: str) -> pl.Series:
    """Which rows satisfy one comparison `COLUMN OP VALUE` with OP one of == != < <= > >=, as booleans.

    The value is read as what the column holds: a number, true or false, or text (quotes around it are left out).

    Raises:
        AnalysisError: Not such a comparison, no such column, a value of another kind, or empty cells in the column.
    """
    match = _COMPARISON.fullmatch(condition)
    if match is None or match["value"] == "":
        raise AnalysisError(
            f"{condition!r} is not a comparison; write COLUMN OP VALUE, such as 'size<=1e9' or 'part==1'"
        )
    column, operator, value = match["column"], match["operator"], match["value"]
    if operator == "=":
        raise AnalysisError(f"{condition!r}: equality is written with two signs, {column}=={value}")
    if len(column) > 1 and column[0] == column[-1] and column[0] in "'\"`":
        column = column[1:-1]
    require_columns(table, [column])
    cells = table[column]
    empty = cells.is_null()
    if empty.any():
        rows = ", ".join(str(row + 1) for row in empty.arg_true()[:3])
        raise AnalysisError(
            f"{condition!r}: column {column!r} is empty in row {rows}{' and more' if empty.sum() > 3 else ''}; "
            "such a row is neither fitted nor held out, so fill it in or leave it out first"
        )
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    literal: float | bool | str = value
    if cells.dtype.is_numeric():
        literal = _number(value, condition, column)
    elif cells.dtype == pl.Boolean:
        if value.lower() not in ("true", "false", "1", "0"):
            raise AnalysisError(f"{condition!r}: column {column!r} holds true and false, not {value!r}")
        literal = value.lower() in ("true", "1")
    else:
        cells = cells.cast(pl.String)
    return _OPERATORS[operator](cells, literal)


def _number(value: str, condition: str, column: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise AnalysisError(f"{condition!r}: column {column!r} holds numbers, and {value!r} is not one") from None


def write_folder(out: str | os.PathLike[str], files: Mapping[str, bytes], about: Mapping[str, Any]) -> Path:
    """Write files to a folder that is at no time half full: made beside `out`, then put in its place.

    An earlier folder of ours (it has a `fit.json` of this program) is replaced; anything else is left alone.

    Args:
        out: Folder, on this machine.
        files: Name to content.
        about: What the files are, as `fit.json`.

    Raises:
        AnalysisError: `out` is a file or holds files of others, or the disk refuses.
    """
    target = Path(out).resolve()
    described = {"made_by": MADE_BY, **about}
    try:
        refuse_foreign(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            fresh.chmod(0o755)  # mkdtemp makes it private
            for name, raw in files.items():
                (fresh / name).write_bytes(raw)
            (fresh / MARK).write_text(json.dumps(described, indent=2, ensure_ascii=False, default=str) + "\n")
            old = fresh.with_name(fresh.name + "-old")
            if target.exists():
                target.rename(old)
            try:
                fresh.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise AnalysisError(f"{target} cannot be written: {error.strerror or error}") from None
    return target


def refuse_foreign(out: Path) -> None:
    """Refuse to replace what is not ours.

    Raises:
        AnalysisError: `out` is a file, or a folder that holds files of others.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise AnalysisError(f"{out} is a file; give a folder for the results")
    if not any(out.iterdir()):
        return
    try:
        ours = json.loads((out / MARK).read_text())["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise AnalysisError(
            f"{out} holds files that are not results of {MADE_BY}, so it is not replaced; give another folder"
        )
