"""One self-contained HTML page about a search, with its figures and tables as files beside it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from analysis.estimates import ORACLE_MARK, REFERENCE_METHOD, Options
from analysis.export import table_bytes
from analysis.intervals import FEW_SEEDS
from analysis.page import MARKER, Column, Figure, html_table, page_template, render_figure, write_page
from analysis.tuning import figures
from analysis.tuning.candidates import BEST_SHOWN, best_candidates, chain_values, chains, two_to_show
from analysis.tuning.fresh import Fresh
from analysis.tuning.notebook import Tuning, load
from analysis.tuning.reading import Parameter, StudyFiles, TuningFiles, shown
from analysis.tuning.sentences import about, caption_of_search, fresh_lines, problems, same_winner, study_lines
from analysis.tuning.sentences import summary_lines as all_lines

_SHOWN_LINES = 24
"""Sentences above the figures; the others fold away."""


def write_tuning_report(
    storage: str,
    tune_id: str,
    out: str | os.PathLike[str],
    *,
    command: str | None = None,
    spec_text: str | None = None,
    options: Options | None = None,
) -> Path | str:
    """Write `index.html`, `summary.txt`, `figures/` and `tables/` about one search.

    As with the report of a sweep, a folder appears whole or not at all; on object stores `index.html` is written last.

    Args:
        storage: Folder or fsspec URL of the results.
        tune_id: Which search.
        out: Folder or fsspec URL to write; an earlier report there is replaced, anything else is left alone.
        command: What the user typed, to be shown; by default what the search's summary says.
        spec_text: The sweep's YAML, to be shown.
        options: How intervals are made.

    Returns:
        Where `index.html` is: a path, or an URL for an object store.

    Raises:
        AnalysisError: No such storage or search, or `out` cannot be written.
    """
    files = report_files(load(storage, tune_id, options=options), command=command, spec_text=spec_text)
    return write_page(out, files)


def report_files(search: Tuning, *, command: str | None = None, spec_text: str | None = None) -> dict[str, bytes]:
    """The whole report as file names and contents."""
    files, fresh = search.files, search.fresh
    summary = files.summary
    caption = caption_of_search(files.studies, len(summary.get("instances") or ()))
    ended = any(study.of_state("complete", "pruned", "failed").height for study in files.studies)
    best = None
    if ended:
        alt = "Best value so far, by candidate and by FLOPs"
        best = render_figure("best", alt, figures.plot_best(files.studies, caption))
    importances = figures.plot_importances(files.studies, _importances_caption(files.studies))
    importances = importances and render_figure("importances", "Importance of parameters", importances)
    fresh_figures = _fresh_figures(fresh)
    studies = [_study_context(study, files, fresh) for study in files.studies]
    every = [best, importances, *fresh_figures, *(figure for study in studies for figure in study["figures"])]
    written: dict[str, bytes] = {}
    for figure in every:
        written |= figure.files("figures") if figure is not None else {}
    tables = {
        "trials": search.trials,
        "scores": search.scores,
        "importances": search.importances,
        "candidates": search.best,
        "chains": search.chains,
        "fresh_methods": fresh.methods,
        "fresh_differences": fresh.differences,
        "fresh_pairs": fresh.pairs,
        "fresh_search": fresh.search,
    }
    for name, frame in tables.items():
        written |= {f"tables/{name}{ending}": table_bytes(frame, ending) for ending in (".csv", ".parquet")}
    page = page_template("tuning.html").render(
        marker=MARKER,
        shown_lines=_SHOWN_LINES,
        title=f"Search {summary.get('name') or files.tune_id}: {summary.get('method') or 'a method'} tuned",
        tune_id=files.tune_id,
        storage=files.storage,
        about=about(files) + same_winner(files),
        warnings=problems(files, fresh),
        contents=[
            ("fresh", "Tuned against default on fresh instances"),
            ("search", "How the search went"),
            *((study["anchor"], study["title"]) for study in studies),
            ("space", "Space and instances"),
            ("words", "Words"),
            ("made", "How this was made"),
        ],
        fresh_lines=fresh_lines(files, fresh),
        fresh_figures=fresh_figures,
        fresh_methods=html_table(_each_once(_named(fresh.methods)), _METHOD_COLUMNS),
        fresh_differences=html_table(_in_words(_named(_telling(fresh.differences)), fresh), _DIFFERENCE_COLUMNS),
        fresh_pairs=html_table(_in_words(_yes_or_no(fresh.pairs, "searched"), fresh), _PAIR_COLUMNS),
        fresh_search=html_table(_yes_or_no(fresh.search, "same_pairs"), _SEARCH_COLUMNS),
        best_figure=best,
        importances_figure=importances,
        studies=studies,
        space=html_table(_space_frame(files.parameters), _SPACE_COLUMNS),
        instances=html_table(_instances_frame(files), _INSTANCE_COLUMNS),
        n_instances=len(summary.get("instances") or ()),
        options=search.options,
        command=command or summary.get("command"),
        versions=summary.get("versions") or {},
        spec_text=spec_text,
        tables=sorted(tables),
    )
    written["index.html"] = page.encode()
    written["summary.txt"] = ("\n".join(all_lines(files, fresh)) + "\n").encode()
    return written


def _importances_caption(studies: Sequence[StudyFiles]) -> str:
    notes = [f"{study.objective}: {study.importances_note}" for study in studies if study.importances_note]
    text = "PED-ANOVA over complete candidates: how much of what tells good candidates apart lies in each parameter."
    return text + (" " + "; ".join(notes) + "." if notes else "")


# --- fresh instances -------------------------------------------------------------------------------------------------


def _fresh_figures(fresh: Fresh) -> list[Figure]:
    if fresh.is_empty:
        return []
    caption = _fresh_caption(fresh)
    found = [
        render_figure(
            "fresh", "PGR of tuned and default, and their difference in accuracy", figures.plot_fresh(fresh, caption)
        )
    ]
    if figures.compared_pairs(fresh):
        alt = "Difference in accuracy at each pair"
        found.append(render_figure("fresh-pairs", alt, figures.plot_fresh_pairs(fresh, caption)))
    return found


def _fresh_caption(fresh: Fresh) -> str:
    text = (
        f"{fresh.n_seeds} fresh seed{'s' * (fresh.n_seeds != 1)}, {fresh.n_test:,} test examples; bars are"
        f" {fresh.options.level * 100:g} % intervals of {fresh.options.draws:,} joint resamples"
    )
    if fresh.n_seeds == 1:
        text += " of test examples only (one seed says nothing of seeds)"
    elif fresh.n_seeds < FEW_SEEDS:
        text += f" (fewer than {FEW_SEEDS} seeds: wide and rough)"
    oracle = f" Hollow, {ORACLE_MARK}: tuned with ground truth on validation; a diagnostic, no method."
    return f"{text}." + oracle * any(c.oracle for c in fresh.contenders)


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows over all tasks say so; with one task they are called by nothing else."""
    return frame.with_columns(pl.col("task").fill_null("all"))


def _each_once(methods: pl.DataFrame) -> pl.DataFrame:
    """One row where reference and matched ceiling are the same."""
    key = ["contender", "task", "method"]
    both = methods.group_by(key, maintain_order=True).agg(pl.len().alias("ceilings"))
    joined = methods.join(both, on=key, how="left", validate="m:1", maintain_order="left")
    joined = joined.filter((pl.col("ceilings") == 1) | (pl.col("ceiling") == "reference"))
    same = pl.col("ceilings") > 1
    return joined.with_columns(ceiling=pl.when(same).then(pl.lit("reference, matched")).otherwise("ceiling"))


def _telling(differences: pl.DataFrame) -> pl.DataFrame:
    """Groups of pairs that are not all of them again; of differences from naive only that over all."""
    key = ["contender", "reference"]
    every = differences.filter((pl.col("pairs") == "all") & pl.col("task").is_null()).select(*key, of="n_pairs")
    joined = differences.join(every, on=key, how="left", validate="m:1", maintain_order="left")
    part = (pl.col("n_pairs") < pl.col("of")) & (pl.col("reference") != REFERENCE_METHOD)
    return joined.filter((pl.col("pairs") == "all") | part).drop("of")


def _in_words(compared: pl.DataFrame, fresh: Fresh) -> pl.DataFrame:
    """What is subtracted, with a note where not only the method differs."""
    texts = [fresh.reference_in_words(*names) for names in compared.select("contender", "reference").iter_rows()]
    return compared.with_columns(pl.Series("reference", texts, dtype=pl.String))


def _yes_or_no(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    return frame.with_columns(pl.when(column).then(pl.lit("yes")).otherwise(pl.lit("no")).alias(column))


# --- one study -------------------------------------------------------------------------------------------------------


def _study_context(study: StudyFiles, files: TuningFiles, fresh: Fresh) -> dict[str, Any]:
    caption = caption_of_search([study], len(files.summary.get("instances") or ()))
    best = best_candidates(study, files.parameters)
    return {
        "anchor": f"study-{study.objective}",
        "title": f"Objective {study.objective}, by {study.metric}" + f" {ORACLE_MARK}" * study.oracle,
        "lines": study_lines(study, files),
        "figures": _study_figures(study, files.parameters, fresh, caption),
        "best": html_table(_with_fresh(best, study, fresh), _best_columns(study, files.parameters)),
        "best_caption": _best_caption(study, best),
        "chains": html_table(chains(study, files.parameters), _CHAIN_COLUMNS),
        "location": study.location,
    }


def _best_caption(study: StudyFiles, best: pl.DataFrame) -> str:
    n = study.of_state("complete").height
    which = f"The best {best.height} of {n} complete candidates" if n > BEST_SHOWN else "All complete candidates"
    scores = "accuracies" if study.metric == "pgr" else "scores"
    return (
        f"{which}, the winner first. Value: {study.metric} on validation. Spread: standard deviation of the {scores}"
        " on single instances. Accuracy and PGR: on fresh instances, test, of those that were evaluated there."
    )


_OF_SEARCH = ("value", "spread", "minus_default")


def _with_fresh(best: pl.DataFrame, study: StudyFiles, fresh: Fresh) -> pl.DataFrame:
    rows = [fresh.value_of(study.objective, number, study.default) or {} for number in best["number"]]
    names = [f"{name}{bound}" for name in ("accuracy", "pgr") for bound in ("", "_low", "_high")]
    values = pl.DataFrame(
        {f"fresh_{name}": [row.get(name) for row in rows] for name in names},
        schema={f"fresh_{name}": pl.Float64 for name in names},
    )
    notes = []
    for row in best.iter_rows(named=True):
        marks = ["winner"] * (row["number"] == study.best) + ["default"] * row["is_default"]
        notes.append(", ".join([*marks, *["front"] * (row["number"] in study.front and study.minimize_flops)]))
    floats = {name for name, kind in best.schema.items() if kind == pl.Float64}
    digits = [pl.col(name).round(4) + 0.0 for name in _OF_SEARCH]  # adding zero keeps "-0.0" away
    digits += [pl.col(name).round_sig_figs(4) for name in sorted(floats - set(_OF_SEARCH))]
    return best.with_columns(digits).hstack(values).with_columns(pl.Series("note", notes, dtype=pl.String))


def _best_columns(study: StudyFiles, parameters: Sequence[Parameter]) -> list[Column]:
    columns = [
        Column("rank", "rank", "count"),
        Column("candidate", "number", "count"),
        Column("", "note", "text"),
        Column(study.metric, "value", "number", "mean over instances, on validation"),
        Column("spread", "spread", "number", "standard deviation over instances"),
        Column("minus default", "minus_default", "number", "mean over common instances, on validation"),
        Column("instances better", "n_better", "count", "than the default"),
        Column("of", "n_common", "count", "instances that both have"),
    ]
    if study.minimize_flops:
        columns.append(Column("finetuning FLOPs", "flops", "big", "of a student, mean over instances"))
    columns += [
        Column("accuracy, fresh", "fresh_accuracy", "share", "test, over all fresh pairs"),
        Column("PGR, fresh", "fresh_pgr", "share", "of mean accuracies, against the reference ceiling"),
    ]
    short = {p.name: p.name.partition(".")[2] for p in parameters}
    titles = {name: text if list(short.values()).count(text) == 1 else name for name, text in short.items()}
    kinds = {p.name: "number" if p.numeric else "text" for p in parameters}
    return columns + [Column(titles[name], name, kind, name) for name, kind in kinds.items()]


def _study_figures(study: StudyFiles, parameters: tuple[Parameter, ...], fresh: Fresh, caption: str) -> list[Figure]:
    """The figures of one search that have something to show."""
    of = study.objective
    if study.of_state("complete", "pruned").is_empty():
        return []
    found = []
    if study.minimize_flops:
        alt = "Value against finetuning FLOPs, with the Pareto front"
        words = caption + " Steps: the best value for these FLOPs or fewer. Numbers: candidates."
        words += f" Right: their accuracy on fresh instances. {_fresh_caption(fresh)}" * (not fresh.is_empty)
        found.append(render_figure(f"{of}-front", f"{alt}, objective {of}", figures.plot_front(study, words, fresh)))
    if parameters:
        alt = f"Value against each parameter, objective {of}"
        found.append(render_figure(f"{of}-slices", alt, figures.plot_slices(study, parameters, caption)))
    two = two_to_show(study, parameters)
    if two is not None:
        alt = f"Value over {two[0].name} and {two[1].name}, objective {of}"
        which = "the two most important" + (" numbers" if two[0].numeric and two[1].numeric else " parameters")
        known = study.importances.filter(pl.col("of") == "value").height
        which = which if known else "the first two, since importances are not known"
        words = f"Complete candidates; parameters: {which}. The other parameters differ from point to point."
        if figures.is_surface(study, *two):
            words += " Between points the surface is interpolated, and says no more than they do."
        found.append(render_figure(f"{of}-contour", alt, figures.plot_contour(study, *two, words)))
    for parameter in parameters:
        table = chains(study, (parameter,))
        if table.height:
            alt = f"Value by {parameter.name}, objective {of}"
            words = "Means and standard deviations over complete candidates, which differ in other parameters too."
            values = chain_values(study, parameter)
            name = f"{of}-{re.sub('[^a-z0-9]+', '-', parameter.name.lower())}"
            found.append(render_figure(name, alt, figures.plot_chains(study, table, values, words)))
    return found


# --- tables ----------------------------------------------------------------------------------------------------------

_METHOD_COLUMNS = (
    Column("configuration", "contender", "text"),
    Column("ceiling", "ceiling", "text"),
    Column("task", "task", "text"),
    Column("accuracy", "accuracy", "share"),
    Column("PGR of mean accuracies", "pgr", "share"),
    Column("mean PGR of pairs", "mean_pgr", "share", "over pairs with a gap, of a single task"),
    Column("pairs", "n_pairs", "count"),
    Column("no gap", "n_no_gap", "count"),
    Column("seeds", "n_seeds", "count"),
    Column("test n", "n_test", "count"),
)
_DIFFERENCE_COLUMNS = (
    Column("configuration", "contender", "text"),
    Column("minus", "reference", "text"),
    Column("pairs", "pairs", "text", "largest: those with the largest student"),
    Column("task", "task", "text"),
    Column("accuracy", "accuracy_difference", "share"),
    Column("PGR of mean accuracies", "pgr_difference", "share"),
    Column("mean PGR of pairs", "mean_pgr_difference", "share", "over pairs with a gap, of a single task"),
    Column("n pairs", "n_pairs", "count"),
    Column("seeds", "n_seeds", "count"),
)
_PAIR_COLUMNS = (
    Column("configuration", "contender", "text"),
    Column("minus", "reference", "text"),
    Column("task", "task", "text"),
    Column("weak", "weak", "text"),
    Column("strong", "strong", "text"),
    Column("accuracy", "accuracy", "share"),
    Column("of the other", "reference_accuracy", "share"),
    Column("difference", "accuracy_difference", "share"),
    Column("in the search", "searched", "text", "whether the search used this pair, at other seeds"),
    Column("seeds", "n_seeds", "count"),
)
_SEARCH_COLUMNS = (
    Column("configuration", "contender", "text"),
    Column("metric", "metric", "text"),
    Column("in the search", "search_tuned", "share"),
    Column("default, search", "search_default", "share"),
    Column("gain, search", "search_gain", "share"),
    Column("fresh", "fresh_tuned", "share"),
    Column("default, fresh", "fresh_default", "share"),
    Column("gain, fresh", "fresh_gain", "share"),
    Column("same pairs", "same_pairs", "text", "whether the fresh values are of the search's own pairs"),
    Column("pairs", "n_pairs", "count"),
    Column("seeds", "n_seeds", "count"),
)
_CHAIN_COLUMNS = (
    Column("parameter", "parameter", "text"),
    Column("chain", "chain", "text"),
    Column("links", "length", "count"),
    Column("mean value", "mean", "share"),
    Column("SD", "sd", "share", "over candidates"),
    Column("lowest", "lowest", "share"),
    Column("highest", "highest", "share"),
    Column("candidates", "n", "count"),
)
_SPACE_COLUMNS = (
    Column("parameter", "name", "text"),
    Column("kind", "kind", "text"),
    Column("values", "values", "text"),
    Column("only when", "when", "text"),
)
_INSTANCE_COLUMNS = (
    Column("instance", "instance", "count"),
    Column("task", "task", "text"),
    Column("weak", "weak", "text"),
    Column("strong", "strong", "text"),
    Column("seed", "seed", "count"),
)


def _space_frame(parameters: Sequence[Parameter]) -> pl.DataFrame:
    rows = []
    for p in parameters:
        if p.numeric:
            values = f"{shown(p.low)} to {shown(p.high)}" + (", log" if p.log else "")
        else:
            values = ("any of " if p.kind == "subset" else "") + "; ".join(map(shown, p.values))
        conditions = [f"{name} is {' or '.join(map(shown, of))}" for name, of in p.when.items()]
        rows.append({"name": p.name, "kind": p.kind, "values": values, "when": " and ".join(conditions) or "always"})
    return pl.DataFrame(rows, schema=dict.fromkeys(("name", "kind", "values", "when"), pl.String))


def _instances_frame(files: TuningFiles) -> pl.DataFrame:
    keys = {"instance": pl.Int64, "task": pl.String, "weak": pl.String, "strong": pl.String, "seed": pl.Int64}
    rows = [{"instance": index} | dict(row) for index, row in enumerate(files.summary.get("instances") or ())]
    return pl.DataFrame(rows, schema=keys)
