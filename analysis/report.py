"""One self-contained HTML page about a sweep, with its figures and tables as files beside it."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import fsspec
import polars as pl
from matplotlib.figure import Figure as MatplotlibFigure

from analysis import plots
from analysis.estimates import OWN, Estimates, Options, Section, estimate, methods_in_order
from analysis.export import table_bytes
from analysis.extrapolation import DERIVED, Extrapolation, extrapolate
from analysis.outlook import outlook
from analysis.page import MARKER, Column, Figure, html_table, page_template, render_figure, write_page
from analysis.results import Results, load
from analysis.scores import ACCEPTED, ACCURACY, EXPLAINED, TITLES, by_metric
from analysis.summary import (
    beside_accuracy,
    completeness,
    findings,
    over_tasks,
    section_title,
    shrunk_runs,
    summary,
    warnings,
)
from analysis.tags import by_tag, families, numeric_rows
from analysis.training import overfitting, training
from analysis.trends import DOES_NOT_FIT, REFUSED, Trends, misfits, trends
from analysis.wording import counted

FULL_SECTIONS = 4
"""With more sections than this each has only the figures of `BRIEF`, without PDF, unless all are asked for."""
BRIEF = ("overview",)
PDF_PAIRS = 300
"""With more pairs than this figures come without PDF, for their time, unless all are asked for."""
TASK_METHODS = 3
"""Methods that get a figure with a panel per task."""
TAG_METHODS = 3
"""Methods whose students are in the figure of tags."""
SCORE_PAIR_ROWS = 400
"""Rows of scores by pair up to which they are on the page; the file has all."""
OPEN_ROWS = 40
"""Rows by tag up to which a table is open from the start."""
SHOWN_REACHES = (2.0, 5.0, 10.0)
"""Multiples of the largest measured compute in the table of predictions."""
SHOWN_LINES = 12
"""Sentences of a section above its figures; the others fold away."""


def write_report(
    storage: str,
    out: str | os.PathLike[str],
    sweep: str | None = None,
    *,
    command: str | None = None,
    spec_text: str | None = None,
    options: Options | None = None,
    every_figure: bool | None = None,
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
        every_figure: Whether each task and setting gets all of its figures; by default if there are at most four.

    Returns:
        Where `index.html` is.

    Raises:
        AnalysisError: No such storage or sweep, ambiguous pairs, or `out` cannot be written.
    """
    results = load(storage, sweep)
    spec_text = spec_text or _stored_spec(storage, sweep)
    files = report_files(results, command=command, spec_text=spec_text, options=options, every_figure=every_figure)
    return str(write_page(out, files))


def report_files(
    results: Results,
    *,
    command: str | None = None,
    spec_text: str | None = None,
    options: Options | None = None,
    every_figure: bool | None = None,
) -> dict[str, bytes]:
    """The whole report as file names and contents."""
    estimates = estimate(results, options)
    fitted = trends(estimates)
    courses = training(results, estimates)
    beyond = extrapolate(estimates, fitted)
    scores, tags = by_metric(results, estimates), by_tag(results, estimates)
    files: dict[str, bytes] = {}
    sections = []
    several_tasks = task_figures(estimates)
    for figure in several_tasks:
        files |= figure.files("figures")
    pdf = every_figure or (every_figure is None and results.pairs.height <= PDF_PAIRS)
    if every_figure is None:
        every_figure = len(estimates.sections) <= FULL_SECTIONS
    for number, (grouped, _) in enumerate(estimates.sections):
        folder = "figures" if len(estimates.sections) == 1 else f"figures/{number + 1}-{_slug(grouped.section.task)}"
        section = grouped.section
        figures = section_figures(
            estimates, fitted, courses, beyond, section, tags=tags, only=None if every_figure else BRIEF, pdf=pdf
        )
        for figure in figures:
            files |= figure.files(folder)
        context = _section_context(estimates, fitted, beyond, scores, tags, section, figures, folder)
        context["findings"] += overfitting(estimates.of(section, courses)) + misfits(estimates.of(section, fitted.fits))
        ladder = estimates.of(section, estimates.ladder).sort("rung")
        context["findings"] += outlook(beyond, section, ladder["model"].to_list())
        sections.append(context)
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
        "tasks": estimates.tasks,
        "by_metric": scores,
        "by_tag": tags,
        "training": courses,
        "fits": fitted.fits,
        "curves": fitted.curves,
        "extrapolation": beyond.predictions,
        "extrapolation_tests": beyond.tests,
        "extrapolation_skill": beyond.skill,
        "extrapolation_left_out": beyond.left_out,
        "extrapolation_refused": beyond.refused,
    }
    for name, frame in tables.items():
        files |= {f"tables/{name}{ending}": table_bytes(frame, ending) for ending in (".csv", ".parquet")}
    page = page_template("report.html").render(
        marker=MARKER,
        title=f"Weak-to-strong sweep {results.sweep}" if results.sweep else "Weak-to-strong sweeps",
        storage=results.storage,
        about=completeness(results),
        sections=sections,
        contents=_contents(sections, bool(several_tasks), results),
        task_figures=several_tasks,
        task_lines=over_tasks(estimates),
        tasks=html_table(_over_pairs(estimates.tasks), _TASK_COLUMNS),
        shown_lines=SHOWN_LINES,
        every_figure=every_figure,
        warnings=warnings(results),
        missing=html_table(results.missing, _MISSING_COLUMNS),
        shrunk=shrunk_runs(results),
        versions=results.versions,
        command=command,
        spec_text=spec_text,
        tables=sorted(tables),
        estimates=estimates,
        oracle=bool(estimates.methods["oracle"].any()),
    )
    files["index.html"] = page.encode()
    files["summary.txt"] = ("\n".join(summary(results, estimates, scores, tags)) + "\n").encode()
    return files


def section_figures(
    estimates: Estimates,
    fitted: Trends,
    courses: pl.DataFrame,
    beyond: Extrapolation,
    section: Section,
    *,
    tags: pl.DataFrame | None = None,
    only: Collection[str] | None = None,
    pdf: bool = True,
) -> list[Figure]:
    """The figures of one section that have data, all or those named, with PDF if there are all.

    Only `methods` shows more than six methods.
    """
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
    ahead, tests = estimates.of(section, beyond.predictions), estimates.of(section, beyond.tests)
    intervals = plots.interval_caption(every, estimates.options)
    shown = intervals + _shown_caption(every, methods)
    caption = shown + plots.label_of_oracles(methods)
    fits = estimates.of(section, fitted.fits)
    if set(fits["status"]) & {REFUSED, DOES_NOT_FIT}:
        lines = caption + " Thin lines only connect points: no curve fits them, or they are too few for one."
    else:
        lines = caption
    of_methods = " The reference first, then sorted by mean PGR." + plots.label_of_oracles(grid["method"])
    numbered = numeric_rows(estimates.of(section, tags)) if tags is not None else pl.DataFrame()
    with_pgr = pairs["pgr"].null_count() < pairs.height  # else there would be empty frames
    kinds: dict[str, tuple[bool, str, Callable[[], MatplotlibFigure]]] = {
        "overview": (
            True,
            "Accuracy, PGR and method differences in one picture",
            lambda: plots.plot_overview(pairs, ladder, curves, differences, lines),
        ),
        "accuracy": (
            True,
            "Accuracy of ceiling, students and supervisor against compute",
            lambda: plots.plot_accuracy(pairs, ladder, curves, lines + _baseline_caption(pairs)),
        ),
        "pgr": (with_pgr, "PGR against strong compute", lambda: plots.plot_pgr(pairs, ladder, curves, caption)),
        "pgr_map": (with_pgr, "Weak by strong map of PGR", lambda: plots.plot_pgr_map(pairs, ladder, shown)),
        "methods": (
            True,
            "PGR of each method, and its accuracy minus the reference's",
            lambda: plots.plot_methods(grid, compared, intervals + of_methods),
        ),
        "differences": (
            not differences.is_empty(),
            "Differences between methods by size gap",
            lambda: plots.plot_differences(differences, caption, methods),
        ),
        "agreement": (
            True,
            "Agreement of student and supervisor against compute",
            lambda: plots.plot_agreement(pairs, ladder, curves, lines),
        ),
        "extrapolation": (
            "student" in set(ahead["quantity"]),
            "Accuracy and PGR beyond the largest measured model, and predictions of hidden models",
            lambda: plots.plot_extrapolation(
                pairs,
                ladder,
                curves,
                ahead,
                tests,
                caption + _tests_caption(estimates.of(section, beyond.skill)),
                methods,
            ),
        ),
        "tags": (
            not numbered.is_empty(),
            "Accuracy by tag of the examples, where tags are numbers",
            lambda: plots.plot_tags(numbered, methods[:TAG_METHODS], caption + _TAGS_CAPTION),
        ),
        "training": (
            not slow.is_empty(),
            "Accuracy and agreement during training, under the weakest supervisor",
            lambda: plots.plot_training(slow, methods, shown),
        ),
    }
    kinds_of_files = plots.KINDS if pdf and only is None else ("png", "svg")
    return [
        render_figure(name, alt, draw(), kinds_of_files)
        for name, (has_data, alt, draw) in kinds.items()
        if has_data and (only is None or name in only)
    ]


def _tests_caption(skill: pl.DataFrame) -> str:
    derived = skill.filter(pl.col("predictor") == DERIVED)
    n = int(derived.filter(pl.col("quantity") == "student")["n"].sum())
    tested = "too few rungs to test by hiding some"
    if n:
        tested = f"their widths are from {counted(n, 'prediction')} of hidden students"
    left_out = int(derived.filter(pl.col("quantity") == "pgr")["n_left_out"].sum())
    words = f"50, 80 and 95 % bands; {tested}. Open squares: predicted while the largest were hidden."
    words += f" Left out for want of a gap: {counted(left_out, 'test')} of PGR." if left_out else ""
    words += (
        " It starts where the line within the data ends, and goes over within half a rung into a mixture of curves that"
        " such tests chose."
    )
    return f" Beyond the dotted line: {words}"


def task_figures(estimates: Estimates) -> list[Figure]:
    """Figures over tasks, where there are several: a panel per task for the first methods."""
    sections = [grouped.section for grouped, _ in estimates.sections]
    if len({section.task for section in sections}) < 2:
        return []
    pairs = estimates.pairs
    shown = plots.shown_methods(pairs["method"])
    methods = shown[:TASK_METHODS]
    intervals = plots.interval_caption(pairs, estimates.options) + _shown_caption(pairs, methods)
    panels = {
        section_title(section, estimates): (estimates.of(section, pairs), estimates.of(section, estimates.ladder))
        for section in sections
    }
    figures = []
    for number, method in enumerate(methods):
        own = {name: frames for name, frames in panels.items() if method in set(frames[0]["method"])}
        caption = intervals + plots.label_of_oracles([method])
        alt = f"Accuracy against strong compute by task, {method}"
        figures.append(render_figure(f"tasks-{number + 1}", alt, plots.plot_tasks(own, method, caption)))
    return figures + _median_figures(estimates, shown)


def _median_figures(estimates: Estimates, methods: Sequence[str]) -> list[Figure]:
    """Median over tasks of PGR, a figure for each of the settings that tasks share."""
    medians = estimates.tasks.filter(
        (pl.col("statistic") == "median") & pl.col("weak").is_not_null() & pl.col("method").is_in(methods)
    )
    figures = []
    for (settings, part), rows in medians.group_by("settings", "part", maintain_order=True):
        # The ladder is that of the tasks: sizes and compute belong to a model, whatever it is finetuned on.
        names = {name for tasks in rows["tasks"] for name in tasks.split(", ")}
        ladder = estimates.ladder.filter(pl.col("task").is_in(names))
        ladder = ladder.group_by("model").agg(pl.col("rung", "x", "x_axis").first()).sort("x")
        fewest, most = min(rows["n_tasks"].to_list()), max(rows["n_tasks"].to_list())
        n = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        caption = plots.interval_caption(rows, estimates.options) + f" Medians over {n} tasks with a gap at that pair"
        caption += ", intervals from draws that are joint over tasks." + plots.label_of_oracles(methods)
        several = medians.select("settings", "part").n_unique() > 1
        caption += f" Settings: {settings or 'the only ones of each task'}, part {part}." if several else ""
        name = f"tasks-pgr-{len(figures) + 1}" if several else "tasks-pgr"
        alt = "Median over tasks of PGR against strong compute"
        figures.append(render_figure(name, alt, plots.plot_tasks_pgr(rows, ladder, caption)))
    return figures


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


_TAGS_CAPTION = " Means over all pairs of a method. Examples are resampled within each tag."


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
_TASK_COLUMNS = (
    Column("method", "method", "text"),
    Column("settings", "settings", "text"),
    Column("statistic", "statistic", "text"),
    Column("PGR", "pgr", "share"),
    Column("tasks", "n_tasks", "count"),
    Column("tasks without a gap", "n_no_gap", "count"),
    Column("pairs", "n_pairs", "count"),
    Column("seeds", "n_seeds", "count"),
    Column("test n", "n_test", "count"),
)
_TASK_STATISTICS = {"median": "median over tasks of the mean PGR of pairs", "of_means": "PGR of mean accuracies"}
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
    Column(
        "p of fit", "fit_p", "share", "probability of such residuals if the curve were true; below 0.05 it does not fit"
    ),
    Column("asymptote", "asymptote", "share"),
    Column("diagnosis", "diagnosis", "text"),
)
_SKILL_COLUMNS = (
    Column("quantity", "quantity", "text"),
    Column("method", "method", "text"),
    Column("predictor", "predictor", "text"),
    Column("error", "rmse", "share", "root mean square over the hidden models"),
    Column("of the last value", "rmse_last", "share", "on the same models"),
    Column("of a straight line", "rmse_linear", "share", "in log compute, on the same models"),
    Column("in 50 %", "inside_50", "share"),
    Column("in 80 %", "inside_80", "share"),
    Column("in 95 %", "inside_95", "share"),
    Column("predictions", "n", "count"),
    Column("left out", "n_left_out", "count", "tests of PGR where no gap was measured or predicted"),
)
_AHEAD_COLUMNS = (
    Column("quantity", "quantity", "text"),
    Column("method", "method", "text"),
    Column("supervisor", "weak", "text"),
    Column("predictor", "predictor", "text"),
    Column("times the largest compute", "reach", "step"),
    Column("predicted", "y", "share"),
    Column("50 % from", "y_low_50", "share"),
    Column("to", "y_high_50", "share"),
    Column("95 % from", "y_low_95", "share"),
    Column("to", "y_high_95", "share"),
    Column(
        "status",
        "status",
        "text",
        "whether the predictor beat both baselines on hidden models, and continues a curve that fits",
    ),
)
_SCORE_COLUMNS = (
    Column("method", "method", "text"),
    Column("score", "title", "text"),
    Column("better", "better", "text"),
    Column("weak", "weak_score", "share"),
    Column("student", "student_score", "share"),
    Column("ceiling", "ceiling_score", "share"),
    Column("PGR", "pgr", "share", "(student - weak) / (ceiling - weak) of this score, where the ceiling is better"),
    Column("pairs", "n_pairs", "count"),
    Column("seeds", "n_seeds", "count"),
    Column("scored", "n_scored", "count", "test examples that the score looks at"),
)
_SCORE_PAIR_COLUMNS = (
    *_SCORE_COLUMNS[:1],
    Column("weak", "weak", "text"),
    Column("strong", "strong", "text"),
    *_SCORE_COLUMNS[1:7],
)
_TAG_COLUMNS = (
    Column("tag", "value", "label"),
    Column("test n", "n_test", "count"),
    Column("method", "method", "text"),
    Column("weak acc.", "weak_acc", "share"),
    Column("student acc.", "student_acc", "share"),
    Column("ceiling acc.", "ceiling_acc", "share"),
    Column("PGR", "pgr", "share", "of these mean accuracies"),
    Column("pairs", "n_pairs", "count"),
    Column("seeds", "n_seeds", "count"),
)
_ACCEPTED_COLUMNS = tuple(
    Column(f"{title} accepted", f"{role}_accepted", "share", EXPLAINED[ACCEPTED])
    for role, title in (("weak", "weak"), ("student", "student"), ("ceiling", "ceiling"))
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


def _over_pairs(tasks: pl.DataFrame) -> pl.DataFrame:
    """Rows of `Estimates.tasks` over all pairs, in words."""
    rows = tasks.filter(pl.col("weak").is_null())
    return rows.with_columns(
        pl.col("statistic").replace(_TASK_STATISTICS), pl.col("settings").replace({"": "the only ones of each task"})
    )


def _contents(sections: Sequence[Mapping[str, Any]], several: bool, results: Results) -> list[tuple[str, str]]:
    """Anchors and words of the headings."""
    entries = [("tasks", "All tasks")] if several else []
    entries += [(section["anchor"], section["title"]) for section in sections]
    entries += [("missing", "Pairs that are not complete")] if not results.missing.is_empty() else []
    return [*entries, ("words", "Words"), ("made", "How this was made")]


def _section_context(
    estimates: Estimates,
    fitted: Trends,
    beyond: Extrapolation,
    scores: pl.DataFrame,
    tags: pl.DataFrame,
    section: Section,
    figures: Sequence[Figure],
    folder: str,
) -> dict[str, Any]:
    pairs = estimates.of(section, estimates.pairs)
    fits = estimates.of(section, fitted.fits).filter(pl.col("status") != REFUSED)
    refused = estimates.of(section, fitted.fits).filter(pl.col("status") == REFUSED)
    return {
        "anchor": folder.replace("/", "-"),
        "title": section_title(section, estimates),
        "findings": findings(estimates, section, beside_accuracy(estimates, section, scores, tags)),
        "figures": figures,
        "folder": folder,
        "ladder": html_table(estimates.of(section, estimates.ladder), _LADDER_COLUMNS),
        "methods": html_table(
            estimates.of(section, estimates.methods).with_columns(
                pl.col("statistic").replace(_STATISTICS), pl.col("baseline").replace({OWN: "the grid's own"})
            ),
            _METHOD_COLUMNS,
        ),
        "pairs": html_table(pairs, _PAIR_COLUMNS),
        "scores": _score_tables(estimates.of(section, scores)),
        "families": _family_tables(estimates.of(section, tags)),
        "agreement": html_table(pairs, _AGREEMENT_COLUMNS),
        "n_test": max(pairs["n_test"], default=0),
        "slopes": html_table(
            estimates.of(section, estimates.agreement_slopes).with_columns(pl.col("weak").fill_null("all together")),
            _SLOPE_COLUMNS,
        ),
        "skill": html_table(estimates.of(section, beyond.skill), _SKILL_COLUMNS),
        "ahead": html_table(
            estimates.of(section, beyond.predictions).filter(pl.col("reach").round(6).is_in(SHOWN_REACHES)),
            _AHEAD_COLUMNS,
        ),
        "fits": html_table(fits, _FIT_COLUMNS),
        "n_refused": refused.height,
        "not_continued": estimates.of(section, beyond.refused).filter(pl.col("quantity") == "pgr").height,
    }


def _score_tables(scores: pl.DataFrame) -> dict[str, Any] | None:
    """Scores over the grid and by pair; None where there is only accuracy."""
    if scores.is_empty():
        return None
    only_accepted = set(scores["metric"]) == {ACCURACY, ACCEPTED}
    titles = TITLES | ({ACCURACY: "exact match", ACCEPTED: "any accepted answer"} if only_accepted else {})
    worded = scores.with_columns(
        title=pl.col("metric").replace_strict(titles),
        better=pl.when("higher_is_better").then(pl.lit("higher")).otherwise(pl.lit("lower")),
    )
    by_pair = worded.filter(pl.col("weak").is_not_null())
    explained = "; ".join(
        f"{titles[name]}: {EXPLAINED[name]}" for name in worded["metric"].unique(maintain_order=True)[1:]
    )
    return {
        "heading": "Exact match and other accepted answers" if only_accepted else "Beside accuracy",
        "explained": explained[0].upper() + explained[1:],
        "grid": html_table(worded.filter(pl.col("weak").is_null()), _SCORE_COLUMNS),
        "pairs": html_table(by_pair, _SCORE_PAIR_COLUMNS) if by_pair.height <= SCORE_PAIR_ROWS else None,
        "n_by_pair": by_pair.height,
    }


def _family_tables(tags: pl.DataFrame) -> list[dict[str, Any]]:
    """A table per family of tags."""
    judged = any(tags[f"{role}_accepted"].null_count() < tags.height for role in ("weak", "student", "ceiling"))
    columns = _TAG_COLUMNS[:6] + (_ACCEPTED_COLUMNS if judged else ()) + _TAG_COLUMNS[6:]
    return [
        {
            "name": family.name or "tag",
            "table": html_table(family.rows, columns),
            "n": family.rows["value"].n_unique(),
            "open": family.rows.height <= OPEN_ROWS,
            "left_out": family.left_out,
        }
        for family in families(tags)
    ]


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
