"""Tables as files for other tools."""

import io
import os
from typing import Any, Literal
from uuid import uuid4

import fsspec
import polars as pl

from analysis.errors import AnalysisError
from analysis.results import load

FORMATS = (".parquet", ".csv")


def export(storage: str, out: str, table: Literal["runs", "pairs"] = "runs", sweep: str | None = None) -> str:
    """Write the table of runs or of pairs to a .parquet or .csv file, which appears whole or not at all.

    Args:
        storage: Folder or fsspec URL of the results.
        out: File or fsspec URL to write; replaced when it exists.
        table: Which table.
        sweep: Only this sweep.

    Returns:
        `out` as text.

    Raises:
        AnalysisError: Unknown ending or table, no such storage or sweep, or `out` cannot be written.
    """
    out = str(out)
    if table not in ("runs", "pairs"):
        raise AnalysisError(f"there is no table {table!r}; take runs or pairs")
    ending = os.path.splitext(out)[1].lower()
    if ending not in FORMATS:
        raise AnalysisError(f"{out}: the file's ending must be one of {', '.join(FORMATS)}, got {ending or 'none'}")
    results = load(storage, sweep)
    raw = table_bytes(results.runs if table == "runs" else results.pairs, ending)
    fs, path = fsspec.core.url_to_fs(out)
    temporary = f"{path}.{uuid4().hex[:8]}.part"
    try:
        fs.makedirs(fs._parent(path), exist_ok=True)
        write(fs, temporary, raw)
        fs.mv(temporary, path)
    except OSError as error:
        raise AnalysisError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        if fs.exists(temporary):
            fs.rm(temporary)
    return out


def table_bytes(frame: pl.DataFrame, ending: str) -> bytes:
    """A frame as the bytes of a .csv or .parquet file; equal frames give equal bytes."""
    buffer = io.BytesIO()
    if ending == ".csv":
        frame.write_csv(buffer)
    else:
        frame.write_parquet(buffer)
    return buffer.getvalue()


def write(fs: Any, path: str, raw: bytes) -> None:
    """Write bytes through any fsspec file system."""
    with fs.open(path, "wb") as file:
        file.write(raw)
