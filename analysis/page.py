"""What the pages about a sweep and about a search share: figures, tables, templates, and how a folder appears whole."""

import base64
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import jinja2
import polars as pl
from markupsafe import Markup, escape
from matplotlib.figure import Figure as MatplotlibFigure

from analysis import plots
from analysis.errors import AnalysisError
from analysis.export import write

MARKER = "w2s-report"
"""In every page's head; only a folder whose index.html has it is ever replaced."""


@dataclass(frozen=True)
class Figure:
    """A rendered figure and what its readers without eyes get."""

    name: str
    alt: str
    width: float
    """Inches."""
    png: bytes = field(repr=False)
    svg: bytes = field(repr=False)
    pdf: bytes | None = field(repr=False, default=None)
    """None in reports of many tasks: fonts make it the slowest of the three."""

    @property
    def source(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()

    def files(self, folder: str) -> dict[str, bytes]:
        """Path and content of each format."""
        return {f"{folder}/{self.name}.{kind}": getattr(self, kind) for kind in self.kinds}

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("png", "svg", "pdf") if self.pdf is not None else ("png", "svg")


@dataclass(frozen=True)
class Column:
    """A column of an HTML table."""

    title: str
    name: str
    kind: str
    """`text`, `label` (text in one line), `count`, `step` (a mean of counts), `big` (powers of ten), `share` (three
    digits, with its interval where there is one), `number` (as it is)."""
    explained: str = ""
    """Shown when the heading is pointed at."""


def render_figure(name: str, alt: str, figure: MatplotlibFigure, kinds: Collection[str] = plots.KINDS) -> Figure:
    """A drawing in the formats of `kinds`, which must have `png` and `svg`; `name` is that of its files."""
    return Figure(name, alt, width=figure.get_figwidth(), **plots.render(figure, kinds))


def html_table(frame: pl.DataFrame, columns: Sequence[Column]) -> dict[str, Any]:
    """Headings, and the rows as HTML: thousands of cells take a template ten times as long."""
    rows = ("".join(html_cell(row, column) for column in columns) for row in frame.iter_rows(named=True))
    return {"columns": columns, "body": Markup("\n".join(f"<tr>{cells}</tr>" for cells in rows))}


def html_cell(row: Mapping[str, Any], column: Column) -> str:
    """A cell with its number, its interval under it, and the value to sort by."""
    value = row[column.name]
    more = ""
    if value is None:
        # Where not even a gap could be measured, none is denied.
        text = "no gap" if column.name == "pgr" and row.get("has_gap", False) is not None else "\u2013"
    elif column.kind == "count":
        text = f"{value:,}"
    elif column.kind == "big":
        mantissa, exponent = f"{value:.1e}".split("e")
        text, more = f"{mantissa}\u00d710", f"<sup>{int(exponent)}</sup>"
    elif column.kind == "step":
        text = f"{value:,.0f}"
    elif column.kind == "share":
        text = f"{round(value, 3) + 0.0:.3f}"  # never "-0.000"
        low, high = row.get(f"{column.name}_low"), row.get(f"{column.name}_high")
        if low is not None and high is not None:
            more = f"<small>[{round(low, 3) + 0.0:.3f}, {round(high, 3) + 0.0:.3f}]</small>"
    else:
        text = str(escape(value))
    # Text is sorted as shown, other kinds by their whole value.
    key = "" if value is None else text if column.kind in ("text", "label") else f"{value:.6g}"
    return f'<td class="{column.kind}" data-sort="{key}">{text}{more}</td>'


def page_template(name: str) -> jinja2.Template:
    """One of `analysis/templates`, where a name that was not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def write_page(out: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path | str:
    """Write a page and the files beside it; a folder appears whole or not at all.

    On object stores, where a folder cannot be moved, `index.html` is written last.

    Args:
        out: Folder or fsspec URL to write; an earlier report there is replaced, anything else is left alone.
        files: Contents by path within `out`, `index.html` among them.

    Returns:
        Where `index.html` is: a path, or an URL for an object store.

    Raises:
        AnalysisError: `out` is no report of ours, or cannot be written.
    """
    try:
        fs, path = fsspec.core.url_to_fs(os.fspath(out))
        if isinstance(fs, fsspec.get_filesystem_class("file")):
            return replace_folder(Path(path), files)
        for name, raw in sorted(files.items(), key=lambda item: item[0] == "index.html"):
            write(fs, f"{path.rstrip('/')}/{name}", raw)
    except AnalysisError:
        raise
    except Exception as error:  # every backend has its own errors
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise AnalysisError(f"the report cannot be written to {out}: {reason}") from None
    return f"{os.fspath(out).rstrip('/')}/index.html"


def replace_folder(out: Path, files: Mapping[str, bytes]) -> Path:
    """Write beside `out`, then swap, so that `out` is at no time half a report; gives where `index.html` is.

    Raises:
        AnalysisError: `out` is no report of ours.
        OSError: It cannot be written.
    """
    refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh.chmod(0o755)  # mkdtemp makes it private
        for name, raw in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        old = fresh.with_name(fresh.name + "-old")
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out / "index.html"


def refuse_foreign(out: Path) -> None:
    """Leave alone what is neither absent, nor empty, nor a report of ours.

    Raises:
        AnalysisError: It is a file, or a folder with other files.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise AnalysisError(f"{out} is a file; give a folder for the report")
    index = out / "index.html"
    ours = index.is_file() and MARKER in index.read_text(errors="replace")[:2000]
    if any(out.iterdir()) and not ours:
        raise AnalysisError(
            f"{out} holds files that are not a report of ours, so it is not replaced; give another folder"
        )
