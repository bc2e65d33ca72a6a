"""One self-contained HTML page about a sweep, with its figures and tables as files beside it."""

import base64
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import jinja2
import polars as pl

from analysis import plots
from analysis.errors import AnalysisError
from analysis.estimates import OWN, Estimates, Options, Section, estimate, methods_in_order
from analysis.export import table_bytes, write
from analysis.results import Results, load
from analysis.summary import completeness, findings, section_title, shrunk_runs, summary, warnings
from analysis.training import training
from analysis.trends import REFUSED, Trends, trends

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

    @property
    def source(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Column:
    """A column of an HTML table."""

    title: str
    name: str
    kind: str
    """`text`, `count`, `step` (a mean of counts), `big` (powers of ten), `share` (three digits, with its interval where
    there is one)."""
    explained: str = ""
    """Shown when the heading is pointed at."""


def write_report(
    storage: str,
    out: str | os.PathLike[str],
    sweep: str | None = None,
    *,
    command: str | None = None,
    spec_text: str | None = None,
    options: Options | None = None,
) -> str:
    """Write `index.html`, `summary.txt`, `figures/` and `tables/` about one sweep, or everything in a storage.

    The report is made whole in a folder beside `out` and then put in its place, so that a half-written one is never
    seen. On object stores, where a folder cannot be moved, `index.html` is written last.

    Args:
        storage: Folder or fsspec URL of the results.
        out: Folder or fsspec URL to write; an earlier report there is replaced, anything else is left alone.
        sweep: Only this sweep.
        command: What the user typed, to be shown.
        spec_text: The sweep's YAML, to be shown; by default that of `sweep` in the storage.
        options: How intervals are made.

    Returns:
        Where `index.html` is.

    Raises:
        AnalysisError: No such storage or sweep, ambiguous pairs, or `out` cannot be written.
    """
    results = load(storage, sweep)
    files = report_files(results, command=command, spec_text=spec_text or _stored_spec(storage, sweep), options=options)
    fs, path = fsspec.core.url_to_fs(os.fspath(out))
    try:
        if isinstance(fs, fsspec.get_filesystem_class("file")):
            return _replace_folder(Path(path), files)
        for name, raw in sorted(files.items(), key=lambda item: item[0] == "index.html"):
            write(fs, f"{path.rstrip('/')}/{name}", raw)
    except OSError as error:
        raise AnalysisError(f"the report cannot be written to {out}: {error.strerror or error}") from None
    return f"{os.fspath(out).rstrip('/')}/index.html"


def report_files(
    results: Results, *, command: str | None = None, spec_text: str | None = None, options: Options | None = None
) -> dict[str, bytes]:
    """The whole report as file names and contents."""
    estimates = estimate(results, options)
    fitted = trends(estimates)
    courses = training(results, estimates)
    files: dict[str, bytes] = {}
    sections = []
    for number, (grouped, _) in enumerate(estimates.sections):
        folder = "figures" if len(estimates.sections) == 1 else f"figures/{number + 1}-{_slug(grouped.section.task)}"
        figures = section_figures(estimates, fitted, courses, grouped.section)
        for figure in figures:
            files |= {f"{folder}/{figure.name}.png": figure.png, f"{folder}/{figure.name}.svg": figure.svg}
        sections.append(_section_context(estimates, fitted, grouped.section, figures, folder))
    tables = {
        "runs": results.runs,
        "pairs_by_seed": results.pairs,
        "rises": estimates.rises,
        "missing": results.missing,
        "ladder": estimates.ladder,
        "pairs": estimates.pairs,
        "methods": estimates.methods,
        "differences": estimates.differences,
        "agreement_slopes": estimates.agreement_slopes,
        "training": courses,
        "fits": fitted.fits,
        "curves": fitted.curves,
    }
    for name, frame in tables.items():
        files |= {f"tables/{name}{ending}": table_bytes(frame, ending) for ending in (".csv", ".parquet")}
    page = _template().render(
        marker=MARKER,
        title=f"Weak-to-strong sweep {results.sweep}" if results.sweep else "Weak-to-strong sweeps",
        storage=results.storage,
        completeness=completeness(results),
        sections=sections,
        warnings=warnings(results),
        missing=_table(results.missing, _MISSING_COLUMNS),
        shrunk=shrunk_runs(results),
        versions=results.versions,
        command=command,
        spec_text=spec_text,
        tables=sorted(tables),
        estimates=estimates,
        oracle=bool(estimates.methods["oracle"].any()),
    )
    files["index.html"] = page.encode()
    files["summary.txt"] = ("\n".join(summary(results, estimates)) + "\n").encode()
    return files


def section_figures(estimates: Estimates, fitted: Trends, courses: pl.DataFrame, section: Section) -> list[Figure]:
    """All figures of one section that have data. Only `methods` shows more than six methods."""
    every, ladder, curves, compared, grid, slow = (
        estimates.of(section, frame)
        for frame in (
            estimates.pairs,
            estimates.ladder,
            fitted.curves,
            estimates.differences,
            estimates.methods,
            courses,
        )
    )
    methods = plots.shown_methods(every["method"])
    pairs, differences, slow = (frame.filter(pl.col("method").is_in(methods)) for frame in (every, compared, slow))
    intervals = plots.interval_caption(every, estimates.options)
    caption = intervals + _shown_caption(every, methods)
    drawn = {
        "overview": (
            "Accuracy, PGR and method differences in one picture",
            plots.plot_overview(pairs, ladder, curves, differences, caption),
        ),
        "accuracy": (
            "Accuracy of ceiling, students and supervisor against compute",
            plots.plot_accuracy(pairs, ladder, curves, caption + _baseline_caption(pairs)),
        ),
    }
    if pairs["pgr"].null_count() < pairs.height:  # else there would be empty frames
        drawn |= {
            "pgr": ("PGR against strong compute", plots.plot_pgr(pairs, ladder, curves, caption)),
            "pgr_map": ("Weak by strong map of PGR", plots.plot_pgr_map(pairs, ladder, caption)),
        }
    drawn["methods"] = (
        "PGR of each method, and its accuracy minus the reference's",
        plots.plot_methods(grid, compared, intervals + " The reference first, then sorted by mean PGR."),
    )
    if not differences.is_empty():
        drawn["differences"] = (
            "Differences between methods by size gap",
            plots.plot_differences(differences, caption, methods),
        )
    drawn["agreement"] = (
        "Agreement of student and supervisor against compute",
        plots.plot_agreement(pairs, ladder, curves, caption),
    )
    if not slow.is_empty():
        drawn["training"] = (
            "Accuracy and agreement during training, under the weakest supervisor",
            plots.plot_training(slow, methods, caption),
        )
    return [
        Figure(name, alt, width=figure.get_figwidth(), **plots.render(figure)) for name, (alt, figure) in drawn.items()
    ]


def _shown_caption(pairs: pl.DataFrame, methods: Sequence[str]) -> str:
    n = pairs["method"].n_unique()
    if n <= len(methods):
        return ""
    return f" {len(methods)} of {n} methods are shown; the others are in the figure of methods and in the tables."


def _baseline_caption(pairs: pl.DataFrame) -> str:
    methods = methods_in_order(pairs.filter(pl.col("baseline") != OWN)["method"])
    if not methods:
        return ""
    return (
        f" Supervisor and ceiling drawn are the grid's own; {', '.join(methods)} is measured against others,"
        " see tables/pairs.csv."
    )


# --- the page --------------------------------------------------------------------------------------------------------

_LADDER_COLUMNS = (
    Column("rung", "rung", "count"),
    Column("model", "model", "text"),
    Column("parameters", "n_params", "count"),
    Column("used per token", "n_matmul", "count", "weights that each token is multiplied by: all but the embeddings"),
    Column("pretraining FLOPs", "pretrain_flops", "big"),
    Column("accuracy as supervisor", "supervisor_acc", "share"),
    Column("accuracy as ceiling", "ceiling_acc", "share"),
    Column("seeds", "n_seeds", "count"),
    Column("test n", "n_test", "count"),
)
_PAIR_COLUMNS = (
    Column("method", "method", "text"),
    Column("weak", "weak", "text"),
    Column("strong", "strong", "text"),
    Column("rungs", "size_gap", "count", "steps on the ladder from the weak to the strong model"),
    Column("weak acc.", "weak_acc", "share"),
    Column("student acc.", "student_acc", "share"),
    Column("ceiling acc.", "ceiling_acc", "share"),
    Column("gap", "gap", "share", "ceiling minus weak supervisor"),
    Column("PGR", "pgr", "share", "performance gap recovered: (student - weak) / (ceiling - weak)"),
    Column("seeds", "n_seeds", "count"),
)
_AGREEMENT_COLUMNS = (
    Column("method", "method", "text"),
    Column("weak", "weak", "text"),
    Column("strong", "strong", "text"),
    Column("agreement", "agreement", "share", "share of test examples with the same prediction"),
    Column("where weak right", "agreement_when_weak_right", "share"),
    Column("where weak wrong", "agreement_when_weak_wrong", "share"),
    Column("stop", "stop", "text", "the evaluation of the student that counts"),
    Column("at step", "stop_step", "step", "of training, mean over seeds"),
)
_METHOD_COLUMNS = (
    Column("method", "method", "text"),
    Column("measured against", "baseline", "text"),
    Column("statistic", "statistic", "text"),
    Column("PGR", "pgr", "share"),
    Column("pairs", "n_pairs", "count"),
    Column("no gap", "n_no_gap", "count"),
    Column("seeds", "n_seeds", "count"),
    Column("test n", "n_test", "count"),
)
_STATISTICS = {"mean": "mean PGR of pairs", "median": "median PGR of pairs", "of_means": "PGR of mean accuracies"}
_SLOPE_COLUMNS = (
    Column("method", "method", "text"),
    Column("supervisor", "weak", "text"),
    Column("slope", "slope", "share"),
    Column("students", "n_students", "count"),
    Column("seeds", "n_seeds", "count"),
    Column("test n", "n_test", "count"),
)
_FIT_COLUMNS = (
    Column("quantity", "quantity", "text"),
    Column("method", "method", "text"),
    Column("supervisor", "weak", "text"),
    Column("family", "family", "text"),
    Column("status", "status", "text"),
    Column("points", "n_points", "count"),
    Column("asymptote", "asymptote", "share"),
    Column("diagnosis", "diagnosis", "text"),
)
_MISSING_COLUMNS = (
    Column("task", "task", "text"),
    Column("method", "method", "text"),
    Column("weak", "weak", "text"),
    Column("strong", "strong", "text"),
    Column("seed", "seed", "count"),
    Column("supervisor", "supervisor_state", "text"),
    Column("student", "student_state", "text"),
    Column("ceiling", "ceiling_state", "text"),
)


def _section_context(
    estimates: Estimates, fitted: Trends, section: Section, figures: Sequence[Figure], folder: str
) -> dict[str, Any]:
    pairs = estimates.of(section, estimates.pairs)
    fits = estimates.of(section, fitted.fits).filter(pl.col("status") != REFUSED)
    refused = estimates.of(section, fitted.fits).filter(pl.col("status") == REFUSED)
    return {
        "title": section_title(section, estimates),
        "findings": findings(estimates, section),
        "figures": figures,
        "folder": folder,
        "ladder": _table(estimates.of(section, estimates.ladder), _LADDER_COLUMNS),
        "methods": _table(
            estimates.of(section, estimates.methods).with_columns(
                pl.col("statistic").replace(_STATISTICS), pl.col("baseline").replace({OWN: "the grid's own"})
            ),
            _METHOD_COLUMNS,
        ),
        "pairs": _table(pairs, _PAIR_COLUMNS),
        "agreement": _table(pairs, _AGREEMENT_COLUMNS),
        "n_test": max(pairs["n_test"], default=0),
        "slopes": _table(estimates.of(section, estimates.agreement_slopes), _SLOPE_COLUMNS),
        "fits": _table(fits, _FIT_COLUMNS),
        "n_refused": refused.height,
    }


def _table(frame: pl.DataFrame, columns: Sequence[Column]) -> dict[str, Any]:
    """Headings and rows of (text, interval, value to sort by, kind) for the template."""
    rows = [[_cell(row, column) for column in columns] for row in frame.iter_rows(named=True)]
    return {"columns": columns, "rows": rows}


def _cell(row: Mapping[str, Any], column: Column) -> dict[str, Any]:
    value = row[column.name]
    cell = {"text": "", "power": "", "interval": "", "sort": "" if value is None else value, "kind": column.kind}
    if value is None:
        cell["text"] = "no gap" if column.name == "pgr" else "\u2013"
    elif column.kind == "count":
        cell["text"] = f"{value:,}"
    elif column.kind == "big":
        mantissa, exponent = f"{value:.1e}".split("e")
        cell |= {"text": f"{mantissa}\u00d710", "power": str(int(exponent))}
    elif column.kind == "step":
        cell["text"] = f"{value:,.0f}"
    elif column.kind == "share":
        cell["text"] = f"{round(value, 3) + 0.0:.3f}"  # never "-0.000"
        low, high = row.get(f"{column.name}_low"), row.get(f"{column.name}_high")
        if low is not None and high is not None:
            cell["interval"] = f"[{round(low, 3) + 0.0:.3f}, {round(high, 3) + 0.0:.3f}]"
    else:
        cell["text"] = str(value)
    return cell


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html")


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _stored_spec(storage: str, sweep: str | None) -> str | None:
    if sweep is None:
        return None
    fs, root = fsspec.core.url_to_fs(str(storage))
    try:
        return fs.cat_file(f"{root.rstrip('/')}/sweeps/{sweep}/spec.yaml").decode(errors="replace")
    except OSError:
        return None


# --- writing ---------------------------------------------------------------------------------------------------------


def _replace_folder(out: Path, files: Mapping[str, bytes]) -> str:
    """Write beside `out`, then swap, so that `out` is at no time half a report."""
    _refuse_foreign(out)
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
    return str(out / "index.html")


def _refuse_foreign(out: Path) -> None:
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
