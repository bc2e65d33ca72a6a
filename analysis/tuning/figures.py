"""Figures of a search: frames in, `Figure` out. Each figure is made of panels that a notebook may draw by themselves.

Blue: the search that sees no ground truth. Vermilion, dotted lines, hollow points: the one that does ([oracle]).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.tri import Triangulation

from analysis.estimates import ORACLE_MARK, REFERENCE_METHOD
from analysis.plots.layout import grid, panels, slanted
from analysis.plots.marks import ORACLE_LINE, arms, log_ticks, nothing_here
from analysis.plots.style import FLOOR_COLOUR, METHOD_COLOURS, luminance, style, wrapped
from analysis.tuning.candidates import axis_values, categories_of, progress
from analysis.tuning.fresh import MATCHED_NAIVE, Fresh
from analysis.tuning.reading import Parameter, StudyFiles

COLOURS = {"weak": METHOD_COLOURS[0], "oracle": METHOD_COLOURS[1]}
PRUNED_COLOUR = "#a8a8a8"
FAILED_COLOUR = "#b00020"
DEFAULT_COLOUR = "#222222"
CONTOUR_POINTS = 12
"""Complete candidates that a surface between them needs at least."""
CHAINS_SHOWN = 24
_MAP = "viridis"
_NAME_WIDTH = 30


def name_of_study(study: StudyFiles) -> str:
    """For headings: `weak: agreement`."""
    return f"{study.objective}: {study.metric}" + (f" {ORACLE_MARK}" if study.oracle else "")


def value_label(study: StudyFiles) -> str:
    return f"{study.metric} on validation" + (f" {ORACLE_MARK}" if study.oracle else "")


def _colour(study: StudyFiles) -> str:
    return COLOURS.get(study.objective, METHOD_COLOURS[0])


def _face(study: StudyFiles) -> str:
    return "white" if study.oracle else _colour(study)


def _handles(studies: Sequence[StudyFiles], *, line: bool = False, states: bool = True) -> list[Line2D]:
    handles = []
    for study in studies:
        text = "complete" if len(studies) == 1 else f"complete, {study.objective}"
        text += f" {ORACLE_MARK}" if study.oracle else ""
        handles.append(Line2D([], [], color=_colour(study), marker="o", mfc=_face(study), linestyle="", label=text))
    if line:
        handles.append(Line2D([], [], color=_colour(studies[0]), label="best so far"))
    seen = pl.concat([study.trials for study in studies])["state"].to_list()
    if states and "pruned" in seen:
        handles.append(Line2D([], [], color=PRUNED_COLOUR, marker="x", linestyle="", label="stopped early"))
    if states and line and "failed" in seen:
        handles.append(Line2D([], [], color=FAILED_COLOUR, marker="|", linestyle="", markersize=8, label="failed"))
    return [*handles, *_marked_handles(studies)]


def _marked_handles(studies: Sequence[StudyFiles]) -> list[Line2D]:
    handles = []
    if any(study.candidate(study.default) for study in studies):
        look: dict[str, Any] = {"marker": "s", "mfc": "none", "markersize": 8.5, "linestyle": ""}
        handles.append(Line2D([], [], color=DEFAULT_COLOUR, **look, label="default"))
    if any(study.candidate(study.best) for study in studies):
        handles.append(Line2D([], [], **_STAR, linestyle="", label="winner"))
    return handles


_STAR: dict[str, Any] = {
    "color": METHOD_COLOURS[4],
    "marker": "*",
    "markersize": 12,
    "markeredgecolor": "#333333",
    "markeredgewidth": 0.7,
}


def _mark(ax: Axes, study: StudyFiles, x: dict[int, float], y: dict[int, float]) -> None:
    """The default in a square, the winner as a star."""
    if study.default in x and study.default in y:
        at = study.default
        ax.plot(x[at], y[at], "s", mfc="none", color=DEFAULT_COLOUR, markersize=8.5, mew=1.3, zorder=5)
    if study.best in x and study.best in y:
        ax.plot(x[study.best], y[study.best], **_STAR, zorder=6)


# --- best so far -----------------------------------------------------------------------------------------------------


def plot_best(studies: Sequence[StudyFiles], caption: str) -> Figure:
    """Best value so far by candidate (left) and by FLOPs of new runs (right), a row per study."""
    with style():
        figure, axes = panels(
            "Best value so far",
            caption,
            len(studies),
            2,
            panel_height=2.7,
            sharex=False,
            sharey="row",
            legend=_handles(studies, line=True),
        )
        for row, study in enumerate(studies):
            best_panel(axes[row, 0], study, by="trial")
            best_panel(axes[row, 1], study, by="flops")
            axes[row, 0].set_ylabel(wrapped(value_label(study), 34))
            if len(studies) > 1:
                axes[row, 0].set_title(f"objective {study.objective}" + f" {ORACLE_MARK}" * study.oracle)
    return figure


def best_panel(ax: Axes, study: StudyFiles, *, by: str) -> None:
    """Steps of the best value; candidates as points; by order of their ends, or by FLOPs spent up to there."""
    frame = progress(study)
    x = "place" if by == "trial" else "work"
    seen = frame.filter(pl.col("seen").is_not_null())
    ax.set_xlabel("candidates, in the order in which they ended" if by == "trial" else "FLOPs of new runs (estimated)")
    if by == "trial":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    else:
        ax.ticklabel_format(axis="x", useMathText=True)
    if seen.is_empty():
        nothing_here(ax, "no candidate has a value")
        ax.set_xticks([])
        return
    if by == "flops" and frame["work"][-1] == 0:
        nothing_here(ax, "no new runs: all were\nthere already")
        ax.set_xticks([])
        return
    best = frame.filter(pl.col("best").is_not_null())
    look: dict[str, Any] = {"color": _colour(study), "linestyle": ORACLE_LINE if study.oracle else "-"}
    ax.plot(best[x], best["best"], drawstyle="steps-post", **look)
    pruned, complete = (seen.filter(pl.col("state") == state) for state in ("pruned", "complete"))
    ax.plot(pruned[x], pruned["seen"], "x", color=PRUNED_COLOUR, markersize=4.5, zorder=2)
    ax.plot(complete[x], complete["seen"], "o", color=_colour(study), mfc=_face(study), markersize=3.6, zorder=3)
    failed = frame.filter(pl.col("state") == "failed")
    ax.plot(
        failed[x],
        np.full(failed.height, 0.025),
        "|",
        color=FAILED_COLOUR,
        markersize=8,
        transform=ax.get_xaxis_transform(),
    )
    places = dict(zip(frame["number"], frame[x], strict=True))
    _mark(ax, study, places, dict(zip(complete["number"], complete["seen"], strict=True)))


# --- importances -----------------------------------------------------------------------------------------------------


def plot_importances(studies: Sequence[StudyFiles], caption: str) -> Figure | None:
    """Bars per parameter, a panel per study and objective; None where no study has any."""
    shown = [
        (study, of)
        for study in studies
        for of in ("value", "flops")
        if not study.importances.filter((pl.col("of") == of) & pl.col("importance").is_not_null()).is_empty()
    ]
    if not shown:
        return None
    most = max(study.importances.filter(pl.col("of") == of).height for study, of in shown)
    rows, columns = grid(len(shown))
    with style():
        figure, axes = panels(
            "Importance of parameters",
            caption,
            rows,
            columns,
            panel_height=0.9 + 0.3 * most,
            sharex=False,
            sharey=False,
        )
        for ax, (study, of) in zip(axes.ravel(), shown, strict=False):
            importance_panel(ax, study, of)
            ax.set_title(name_of_study(study) if of == "value" else "finetuning FLOPs")
        for ax in axes.ravel()[len(shown) :]:
            ax.remove()
    return figure


def importance_panel(ax: Axes, study: StudyFiles, of: str = "value") -> None:
    """Bars from the most important parameter down."""
    rows = study.importances.filter((pl.col("of") == of) & pl.col("importance").is_not_null())
    rows = rows.sort("importance", "parameter", descending=[True, False])
    if rows.is_empty():
        nothing_here(ax, wrapped(study.importances_note or "no importances", 40))
        return
    y = np.arange(rows.height)
    ax.barh(
        y,
        rows["importance"],
        height=0.62,
        color="white" if study.oracle else _colour(study),
        edgecolor=_colour(study),
        linestyle=":" if study.oracle else "-",
    )
    top = max(1e-9, float(rows["importance"].max()))  # type: ignore[arg-type]
    for place, value in zip(y, rows["importance"], strict=True):
        ax.text(value + 0.015 * top, float(place), f"{value:.2f}", va="center", fontsize=8)
    ax.set_yticks(y, [wrapped(name, _NAME_WIDTH) for name in rows["parameter"]])
    ax.set_ylim(rows.height - 0.4, -0.6)
    ax.set_xlim(0, 1.14 * top)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("importance (share)")


# --- slices ----------------------------------------------------------------------------------------------------------


def plot_slices(study: StudyFiles, parameters: Sequence[Parameter], caption: str) -> Figure:
    """Value against each parameter."""
    rows, columns = grid(len(parameters))
    with style():
        figure, axes = panels(
            f"Value by parameter ({name_of_study(study)})",
            caption,
            rows,
            columns,
            panel_height=2.9,
            sharex=False,
            legend=_handles([study]),
        )
        for ax, parameter in zip(axes.ravel(), parameters, strict=False):
            slice_panel(ax, study, parameter)
        for row in range(rows):
            axes[row, 0].set_ylabel(wrapped(value_label(study), 34))
        for ax in axes.ravel()[len(parameters) :]:
            ax.remove()
    return figure


def slice_panel(ax: Axes, study: StudyFiles, parameter: Parameter) -> None:
    """Candidates that have the parameter; categories side by side, their points a little apart."""
    frame = axis_values(study, parameter)
    ax.set_xlabel(wrapped(parameter.name, 36))
    parameter_axis(ax, study, parameter, "x")
    if frame.is_empty():
        nothing_here(ax, "no candidate has it")
        return
    x = _apart(frame, parameter)
    pruned = (frame["state"] == "pruned").to_numpy()
    y = frame["y"].to_numpy()
    ax.plot(x[pruned], y[pruned], "x", color=PRUNED_COLOUR, markersize=4.5)
    ax.plot(x[~pruned], y[~pruned], "o", color=_colour(study), mfc=_face(study), markersize=4, alpha=0.85)
    complete = [bool(flag) for flag in ~pruned]
    numbers = [n for n, flag in zip(frame["number"], complete, strict=True) if flag]
    _mark(
        ax,
        study,
        dict(zip(numbers, map(float, x[~pruned]), strict=True)),
        dict(zip(numbers, map(float, y[~pruned]), strict=True)),
    )


def _apart(frame: pl.DataFrame, parameter: Parameter) -> np.ndarray:
    """Places on the axis; in a category spread over a third of its width by number, the same each time."""
    x = frame["x"].to_numpy().copy()
    if not parameter.numeric:
        x += 0.34 * ((frame["number"].to_numpy() * 0.6180339887) % 1.0 - 0.5)
    return x


def parameter_axis(ax: Axes, study: StudyFiles, parameter: Parameter, which: str) -> None:
    """Scale, limits and ticks of one axis (`x` or `y`) for a parameter."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    limits = ax.set_xlim if which == "x" else ax.set_ylim
    if not parameter.numeric:
        names = categories_of(study, parameter) or ["none"]
        shown = [wrapped(name, 14) for name in names]
        axis.set_ticks(range(len(names)), shown, **(slanted(names, 60 // len(names)) if which == "x" else {}))
        limits(-0.6, len(names) - 0.4)
        return
    if parameter.low is None or parameter.high is None:
        return
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log and low > 0:
        (ax.set_xscale if which == "x" else ax.set_yscale)("log")
        pad = max((high / low) ** 0.05, 1.01)
        axis.set_major_locator(FixedLocator(log_ticks(low, high)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_minor_formatter(NullFormatter())
        limits(low / pad, high * pad)
        return
    pad = 0.05 * (high - low) or 0.5
    limits(low - pad, high + pad)
    if parameter.kind == "int":
        axis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


# --- two parameters --------------------------------------------------------------------------------------------------


def is_surface(study: StudyFiles, first: Parameter, second: Parameter) -> bool:
    """Whether there are enough candidates for a surface between them; they may still lie on one line."""
    return first.numeric and second.numeric and _two(study, first, second).height >= CONTOUR_POINTS


def plot_contour(study: StudyFiles, first: Parameter, second: Parameter, caption: str) -> Figure:
    """Value over two parameters."""
    with style():
        figure, axes = panels(
            f"Value over two parameters ({name_of_study(study)})",
            caption,
            1,
            1,
            panel_height=3.9,
            legend=_marked_handles([study]),
        )
        contour_panel(axes[0, 0], study, first, second)
    return figure


def contour_panel(ax: Axes, study: StudyFiles, first: Parameter, second: Parameter) -> None:
    """Two numbers: a surface between complete candidates if these are many, else points coloured by value. With a
    category on either axis: coloured points; on both: the mean of each cell, with n."""
    frame = _two(study, first, second)
    for parameter, which in ((first, "x"), (second, "y")):
        parameter_axis(ax, study, parameter, which)
    ax.set_xlabel(wrapped(first.name, 60))
    ax.set_ylabel(wrapped(second.name, 34))
    ax.grid(visible=False)
    if frame.is_empty():
        nothing_here(ax, "no complete candidate has both")
        return
    if not first.numeric and not second.numeric:
        _cells(ax, study, first, second, frame)
        return
    x, y, value = (frame[name].to_numpy() for name in ("x", "y", "value"))
    if not (first.numeric and second.numeric and _surface(ax, first, second, x, y, value)):
        x, y = _apart(frame, first), _apart(frame.with_columns(x=pl.col("y")), second)
    low, high = _range(value)
    dots = ax.scatter(
        x, y, c=value, cmap=_MAP, vmin=low, vmax=high, s=26, edgecolors="#333333", linewidths=0.5, zorder=3
    )
    _mark(ax, study, dict(zip(frame["number"], x, strict=True)), dict(zip(frame["number"], y, strict=True)))
    _colour_bar(ax, study, dots)


def _two(study: StudyFiles, first: Parameter, second: Parameter) -> pl.DataFrame:
    """number, x, y and value of complete candidates that have both parameters."""
    one, other = (axis_values(study, p).filter(pl.col("state") == "complete") for p in (first, second))
    return one.select("number", "x", value="y").join(other.select("number", y="x"), on="number", validate="1:1")


def _range(values: np.ndarray) -> tuple[float, float]:
    """Limits of the colours: values far below the others, as broken candidates have, share the darkest."""
    low, high = float(np.quantile(values, 0.05)), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _surface(ax: Axes, first: Parameter, second: Parameter, x: np.ndarray, y: np.ndarray, value: np.ndarray) -> bool:
    """Linear interpolation between candidates, if they are enough and span a plane; whether it was drawn."""
    scaled = np.stack([_scaled(first, x), _scaled(second, y)], axis=-1)
    _, kept = np.unique(scaled.round(6), axis=0, return_index=True)
    if kept.size < CONTOUR_POINTS or np.linalg.matrix_rank(scaled[kept] - scaled[kept].mean(axis=0), tol=1e-3) < 2:
        return False
    try:
        # Neighbours are sought on the axes as drawn, so that neither the unit nor a log scale decides.
        triangles = Triangulation(scaled[kept, 0], scaled[kept, 1]).triangles
    except (RuntimeError, ValueError):
        return False
    low, high = _range(value)
    levels = np.linspace(low, high, 13)
    surface = Triangulation(x[kept], y[kept], triangles)
    ax.tricontourf(surface, value[kept], levels=levels, cmap=_MAP, alpha=0.75, extend="min", zorder=1)
    return True


def _scaled(parameter: Parameter, x: np.ndarray) -> np.ndarray:
    low, high = float(parameter.low or 0.0), float(parameter.high or 1.0)
    if parameter.log and low > 0:
        x, low, high = np.log(x), np.log(low), np.log(high)
    return (x - low) / ((high - low) or 1.0)


def _cells(ax: Axes, study: StudyFiles, first: Parameter, second: Parameter, frame: pl.DataFrame) -> None:
    means = frame.group_by("x", "y").agg(pl.col("value").mean(), n=pl.len()).sort("x", "y")
    table = np.full((len(categories_of(study, second)), len(categories_of(study, first))), np.nan)
    for row in means.iter_rows(named=True):
        table[int(row["y"]), int(row["x"])] = row["value"]
    low, high = _range(means["value"].to_numpy())
    image = ax.imshow(table, cmap=_MAP, vmin=low, vmax=high, origin="lower", aspect="auto", alpha=0.9)
    for row in means.iter_rows(named=True):
        dark = luminance([float(part) for part in image.cmap(image.norm(row["value"]))[:3]]) < 0.45
        ax.text(
            row["x"],
            row["y"],
            f"{row['value']:.3f}\nn={row['n']}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "#222222",
        )
    _colour_bar(ax, study, image)


def _colour_bar(ax: Axes, study: StudyFiles, drawn: ScalarMappable) -> None:
    figure = ax.get_figure()
    if figure is not None:
        bar = figure.colorbar(drawn, ax=ax, shrink=0.9, pad=0.02)
        bar.set_label(value_label(study))
        bar.outline.set_visible(False)  # type: ignore[operator]


# --- chains ----------------------------------------------------------------------------------------------------------


def plot_chains(study: StudyFiles, chains: pl.DataFrame, values: dict[str, list[float]], caption: str) -> Figure:
    """Value by chain: mean and standard deviation over candidates, and the candidates."""
    with style():
        figure, axes = panels(
            f"Chains compared ({name_of_study(study)})",
            caption,
            1,
            1,
            panel_height=0.9 + 0.28 * min(chains.height, CHAINS_SHOWN),
        )
        chains_panel(axes[0, 0], study, chains, values)
    return figure


def chains_panel(ax: Axes, study: StudyFiles, chains: pl.DataFrame, values: dict[str, list[float]]) -> None:
    """One line per chain, the shortest on top.

    Args:
        ax: Where to draw.
        study: Whose candidates.
        chains: `candidates.chains` of one parameter.
        values: Values of the candidates with each chain.
    """
    if chains.is_empty():
        nothing_here(ax, "no complete candidate")
        return
    # With very many chains only the best stay readable.
    best = chains.sort("mean", descending=True).head(CHAINS_SHOWN)["chain"].to_list()
    chains = chains.filter(pl.col("chain").is_in(best))
    y = np.arange(chains.height)
    for place, row in zip(y, chains.iter_rows(named=True), strict=True):
        own = values[row["chain"]]
        ax.plot(own, np.full(len(own), place), "o", color=_colour(study), mfc="none", alpha=0.35, markersize=4)
        ax.text(1.015, float(place), f"n={row['n']}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    ax.errorbar(
        chains["mean"],
        y,
        xerr=chains["sd"].fill_null(0.0),
        fmt="D",
        color=_colour(study),
        mfc=_face(study),
        markersize=5,
        elinewidth=1.4,
    )
    ax.set_yticks(y, [wrapped(name, _NAME_WIDTH) for name in chains["chain"]])
    ax.set_ylim(chains.height - 0.4, -0.6)
    ax.set_xlabel(value_label(study))
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")


# --- fresh instances -------------------------------------------------------------------------------------------------


def plot_fresh(fresh: Fresh, caption: str) -> Figure:
    """PGR of each configuration (left) and its accuracy minus the default's (right), on fresh instances."""
    n = fresh.methods["contender"].n_unique()
    m = fresh.differences.filter((pl.col("pairs") == "all") & pl.col("task").is_null()).height
    with style():
        figure, axes = panels(
            "Tuned and default on fresh instances",
            caption,
            1,
            2,
            panel_height=1.0 + 0.42 * max(n, m, 2),
            sharex=False,
            sharey=False,
            legend=_fresh_handles(fresh),
        )
        fresh_pgr_panel(axes[0, 0], fresh)
        fresh_difference_panel(axes[0, 1], fresh)
    return figure


def _fresh_handles(fresh: Fresh) -> list[Line2D]:
    handles = [
        Line2D([], [], color="#444444", marker="o", linestyle="", label="PGR, reference ceiling"),
        Line2D([], [], color="#444444", marker="D", linestyle="", markersize=4, label="PGR, matched ceiling"),
    ]
    if fresh.methods["oracle"].any():
        look: dict[str, Any] = {"color": COLOURS["oracle"], "marker": "o", "mfc": "white", "linestyle": ""}
        handles.append(Line2D([], [], **look, label=f"hollow: {ORACLE_MARK}"))
    return handles


def _of_contender(row: dict[str, Any]) -> dict[str, Any]:
    colour = FLOOR_COLOUR if row.get("objective") is None else COLOURS.get(row["objective"], METHOD_COLOURS[0])
    return {"color": colour, "mfc": "white" if row["oracle"] else colour}


def _rows_on(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    for line in np.arange(len(labels) - 1) + 0.5:
        ax.axhline(line, color="#f0f0f0", linewidth=0.8, zorder=0)


def _bar(ax: Axes, row: dict[str, Any], name: str, place: float, marker: str, scale: float = 1.0) -> None:
    estimate, low, high = (np.array([scale * row[f"{name}{bound}"]]) for bound in ("", "_low", "_high"))
    size = 5.5 if marker == "o" else 4.5
    ax.errorbar(
        estimate,
        [place],
        xerr=arms(estimate, low, high),
        fmt=marker,
        markersize=size,
        elinewidth=1.3,
        **_of_contender(row),
    )


def fresh_pgr_panel(ax: Axes, fresh: Fresh) -> None:
    """PGR of mean accuracies against the reference ceiling (dots) and the matched one (diamonds)."""
    rows = fresh.methods.filter(pl.col("task").is_null())
    names = list(dict.fromkeys(rows["contender"]))
    _rows_on(ax, names)
    ax.set_xlabel("PGR of mean accuracies, test")
    ax.set_title("PGR")
    shown = rows.filter(pl.col("pgr").is_not_null())
    if shown.is_empty():
        nothing_here(ax, "no gap that can be told from zero")
        return
    shown = shown.unique(["contender", "method"], keep="first", maintain_order=True)  # one ceiling, one point
    naive = [c.name for c in fresh.contenders if c.role == MATCHED_NAIVE]  # as grey as naive is
    for row in shown.iter_rows(named=True):
        two = shown.filter(pl.col("contender") == row["contender"]).height > 1
        shift, marker = (-0.13, "o") if row["ceiling"] == "reference" else (0.13, "D")
        row = row | {"objective": None} if row["contender"] in naive else row
        _bar(ax, row, "pgr", names.index(row["contender"]) + two * shift, marker)
    ax.axvline(0, color="#666666", linewidth=1.0)
    ax.axvline(1, color="#999999", linewidth=0.9, linestyle=(0, (4, 2)))
    values = shown["pgr"].to_list()
    low, high = ax.get_xlim()
    span = max(values) - min(values) + 0.6  # bars of two seeds would dwarf all the rest
    ax.set_xlim(max(low, min(0.0, *values) - span), min(high, max(1.0, *values) + span))


def fresh_difference_panel(ax: Axes, fresh: Fresh) -> None:
    """Accuracy differences in percentage points, over all pairs."""
    rows = fresh.differences.filter((pl.col("pairs") == "all") & pl.col("task").is_null())
    ax.set_xlabel("percentage points, test")
    ax.set_title("Accuracy difference, paired")
    if rows.is_empty():
        nothing_here(ax, "nothing to compare")
        ax.set_yticks([])
        return
    names = rows.select("contender", "reference").iter_rows()
    _rows_on(ax, [f"{one}\n− {wrapped(fresh.reference_in_words(one, other), 42)}" for one, other in names])
    objective = {c.name: c.objective for c in fresh.contenders}
    for place, row in enumerate(rows.iter_rows(named=True)):
        _bar(ax, row | {"objective": objective[row["contender"]]}, "accuracy_difference", place, "o", 100.0)
    ax.axvline(0, color="#666666", linewidth=1.0)


def compared_pairs(fresh: Fresh) -> list[tuple[str, str]]:
    """Who is compared with whom in the figure of pairs: winners; the rest is in the tables."""
    front = [c.name for c in fresh.contenders if c.role == "front"]
    naive = [c.name for c in fresh.contenders if c.role in (REFERENCE_METHOD, MATCHED_NAIVE)]
    frame = fresh.pairs.filter(~pl.col("contender").is_in(front) & ~pl.col("reference").is_in(naive))
    return frame.select("contender", "reference").unique(maintain_order=True).rows()


def plot_fresh_pairs(fresh: Fresh, caption: str) -> Figure:
    """Tuned minus default at each pair, a panel per comparison."""
    compared = compared_pairs(fresh)
    pairs = fresh.pairs.select("task", "weak", "strong").n_unique()
    with style():
        figure, axes = panels(
            "Difference at each pair, fresh instances",
            caption,
            1,
            len(compared),
            panel_height=0.95 + 0.27 * pairs,
            width=max(6.4, 2.6 + 3.2 * len(compared)),
            sharex=True,
            sharey=True,
            legend=[
                Line2D([], [], color="#444444", marker="o", linestyle="", label="pair of the search (other seeds)"),
                Line2D([], [], color="#444444", marker="^", linestyle="", label="pair the search did not use"),
            ],
        )
        for ax, (contender, reference) in zip(axes[0], compared, strict=True):
            fresh_pairs_panel(ax, fresh, contender, reference)
    return figure


def fresh_pairs_panel(ax: Axes, fresh: Fresh, contender: str, reference: str) -> None:
    """One line per pair, the largest student last."""
    every = fresh.pairs.select("task", "weak", "strong", "strong_rung", "weak_rung").unique()
    every = every.sort("task", "strong_rung", "weak_rung")
    several = every["task"].n_unique() > 1
    places = {key: place for place, key in enumerate(every.select("task", "weak", "strong").rows())}
    _rows_on(ax, [f"{weak} → {strong}" + (f"  ({task})" if several else "") for task, weak, strong in places])
    objective = {c.name: c.objective for c in fresh.contenders}[contender]
    rows = fresh.pairs.filter((pl.col("contender") == contender) & (pl.col("reference") == reference))
    for row in rows.iter_rows(named=True):
        place = places[row["task"], row["weak"], row["strong"]]
        _bar(ax, row | {"objective": objective}, "accuracy_difference", place, "o" if row["searched"] else "^", 100.0)
    ax.axvline(0, color="#666666", linewidth=1.0)
    ax.set_title(f"{contender} − {reference}")
    ax.set_xlabel("percentage points of accuracy")


# --- Pareto front ----------------------------------------------------------------------------------------------------


def plot_front(study: StudyFiles, caption: str, fresh: Fresh | None = None) -> Figure:
    """Value against finetuning FLOPs; beside it, where evaluated, accuracy of the front on fresh instances."""
    evaluated = _front_values(study, fresh)
    with style():
        figure, axes = panels(
            f"Value and finetuning FLOPs ({name_of_study(study)})",
            caption,
            1,
            2 if evaluated else 1,
            panel_height=3.2,
            sharex=False,
            sharey=False,
            legend=[
                *_handles([study], states=False),
                Line2D([], [], color=_colour(study), label="Pareto front"),
            ],
        )
        front_panel(axes[0, 0], study)
        if evaluated:
            front_fresh_panel(axes[0, 1], study, evaluated)
            axes[0, 1].set_xlim(axes[0, 0].get_xlim())
    return figure


def front_panel(ax: Axes, study: StudyFiles) -> None:
    """Complete candidates, and the front as steps: the best value that can be had for these FLOPs."""
    frame = study.of_state("complete").filter(pl.col("value").is_not_null() & pl.col("flops").is_not_null())
    ax.set_xlabel("finetuning FLOPs of a student (mean, log)")
    ax.set_ylabel(wrapped(value_label(study), 34))
    if frame.is_empty():
        nothing_here(ax, "no complete candidate")
        return
    _flops_axis(ax, frame["flops"].to_numpy())
    front = frame.filter(pl.col("number").is_in(list(study.front))).sort("flops")
    look: dict[str, Any] = {"color": _colour(study), "linestyle": ORACLE_LINE if study.oracle else "-"}
    if front.height:
        # To the right edge: what more FLOPs did not improve.
        x = [*front["flops"], ax.get_xlim()[1]]
        ax.plot(x, [*front["value"], front["value"][-1]], drawstyle="steps-post", **look)
    ax.plot(frame["flops"], frame["value"], "o", color=_colour(study), mfc=_face(study), markersize=3.8, alpha=0.6)
    ax.plot(front["flops"], front["value"], "o", color=_colour(study), mfc=_face(study), markersize=6)
    for number, x, y in front.select("number", "flops", "value").iter_rows():
        ax.annotate(str(number), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7.5)
    at = dict(zip(frame["number"], frame["flops"], strict=True))
    _mark(ax, study, at, dict(zip(frame["number"], frame["value"], strict=True)))


def _front_values(study: StudyFiles, fresh: Fresh | None) -> list[dict[str, Any]]:
    """Fresh values of the front and of the default, with their FLOPs in the search."""
    found = []
    for number in dict.fromkeys([*study.front, study.best, study.default]):
        row, candidate = None, study.candidate(number)
        if fresh is not None and candidate is not None:
            row = fresh.value_of(study.objective, number, study.default)
        if row is not None and candidate is not None and candidate["flops"] is not None:
            found.append(row | {"flops": candidate["flops"], "number": number})
    return found


def front_fresh_panel(ax: Axes, study: StudyFiles, evaluated: Sequence[dict[str, Any]]) -> None:
    """Accuracy on fresh instances of those candidates that were evaluated there."""
    _flops_axis(ax, np.array([row["flops"] for row in evaluated]))
    for row in evaluated:
        estimate, low, high = (np.array([row[f"accuracy{bound}"]]) for bound in ("", "_low", "_high"))
        colour = DEFAULT_COLOUR if row["number"] == study.default else _colour(study)
        ax.errorbar(
            [row["flops"]],
            estimate,
            yerr=arms(estimate, low, high),
            fmt="s" if row["number"] == study.default else "o",
            color=colour,
            mfc="white" if study.oracle or row["number"] == study.default else colour,
            elinewidth=1.2,
        )
        ax.annotate(
            str(row["number"]), (row["flops"], estimate[0]), xytext=(5, 3), textcoords="offset points", fontsize=7.5
        )
    ax.set_xlabel("finetuning FLOPs of a student (mean, log)")
    ax.set_ylabel("accuracy on fresh instances, test")


def _flops_axis(ax: Axes, flops: np.ndarray) -> None:
    if not (flops > 0).all():
        return
    ax.set_xscale("log")
    low, high = float(flops.min()), float(flops.max())
    pad = max((high / low) ** 0.08, 1.15)
    ax.set_xlim(low / pad, high * pad)
    ax.xaxis.set_major_locator(FixedLocator(log_ticks(low / pad, high * pad)))
    ax.xaxis.set_major_formatter(FuncFormatter(_power))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _power(value: float, _: object) -> str:
    mantissa, exponent = f"{value:.0e}".split("e")
    times = "" if mantissa == "1" else f"{mantissa}\\times "
    return f"${times}10^{{{int(exponent)}}}$"
