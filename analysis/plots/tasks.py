"""Figures over several tasks: a panel per task, and PGR over tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import is_oracle, methods_in_order
from analysis.plots.layout import grid, outer_labels, panels
from analysis.plots.marks import bar_limits, compute_axis, curve_or_line, dodge, nothing_here, points
from analysis.plots.pgr import pgr_panel
from analysis.plots.style import CEILING_COLOUR, FLOOR_COLOUR, style, supervisor_colour, wrapped, x_label

_PANEL_INCHES = 2.15


def plot_tasks(
    tasks: Mapping[str, tuple[pl.DataFrame, pl.DataFrame]], method: str, caption: str, *, title: str | None = None
) -> Figure:
    """Accuracy against strong compute, a panel per task (Burns et al. 2023, figures 11 and 12).

    Args:
        tasks: Pairs and ladder of each panel by its title, see `Estimates.pairs` and `Estimates.ladder`.
        method: Whose students are drawn.
        caption: What stands behind the numbers.
        title: Of the figure.
    """
    supervisors = supervisors_in_order([pairs for pairs, _ in tasks.values()])
    columns = min(4, len(tasks)) if len(tasks) != 6 else 3
    rows = -(-len(tasks) // columns)
    alike = len({ladder["x_axis"][0] for _, ladder in tasks.values()}) == 1
    caption += " Squares: the supervisors themselves. Each task has an axis of its own for accuracy."
    with style():
        figure, axes = panels(
            title or wrapped(f"Accuracy against strong-model compute, by task: {method}", 80),
            caption,
            rows,
            columns,
            panel_height=_PANEL_INCHES if rows > 1 else 2.8,
            width=max(2.9 * columns, 6.4),
            sharex=alike,
            sharey=False,
            legend=_handles(supervisors, is_oracle(method)),
        )
        flat = axes.ravel()
        for ax, (name, (pairs, ladder)) in zip(flat, tasks.items(), strict=False):
            _task_panel(ax, pairs.filter(pl.col("method") == method), ladder, supervisors)
            ax.set_title(wrapped(name, 34))
            ax.tick_params(labelsize=7.5)
        for ax in flat[len(tasks) :]:
            ax.set_axis_off()
        ladder = next(iter(tasks.values()))[1]
        outer_labels(axes, len(tasks), "test accuracy", x_label(ladder) if alike else "strong model, by size")
    return figure


def plot_tasks_pgr(median: pl.DataFrame, ladder: pl.DataFrame, caption: str) -> Figure:
    """Median over tasks of PGR against strong compute (Burns et al. 2023, figure 3): a panel per method, a line per
    supervisor.

    Args:
        median: Rows with `method`, `weak`, `strong`, `weak_rung`, `strong_x`, `pgr`, `pgr_low`, `pgr_high`.
        ladder: One row per model, with `model`, `rung`, `x` and `x_axis`.
        caption: What stands behind the numbers.
    """
    methods = methods_in_order(median.filter(pl.col("pgr").is_not_null())["method"])
    keys, values = ("quantity", "method", "weak"), ("x", "y", "y_low", "y_high")
    no_curves = pl.DataFrame(schema=dict.fromkeys(keys, pl.String) | dict.fromkeys(values, pl.Float64))
    caption += " Lines only connect points."
    with style():
        figure, axes = panels(
            "Median over tasks of PGR against strong-model compute", caption, *grid(max(len(methods), 1))
        )
        for ax, method in zip(axes.ravel(), methods, strict=False):
            pgr_panel(ax, method, median, ladder, no_curves)
        for ax in axes.ravel()[max(len(methods), 1) :]:
            ax.set_axis_off()
        if not methods:
            nothing_here(axes[0, 0], "no pair with a gap in any task")
        outer_labels(axes, max(len(methods), 1), "PGR, median over tasks", x_label(ladder))
    return figure


def supervisors_in_order(frames: Sequence[pl.DataFrame]) -> list[str]:
    """Supervisors of several tasks from small to large, by mean rung."""
    rungs = pl.concat([frame.select("weak", "weak_rung").unique() for frame in frames])
    return rungs.group_by("weak").agg(pl.col("weak_rung").mean()).sort("weak_rung", "weak")["weak"].to_list()


def _task_panel(ax: Axes, pairs: pl.DataFrame, ladder: pl.DataFrame, supervisors: Sequence[str]) -> None:
    ceilings = ladder.filter(pl.col("ceiling_acc").is_not_null()).sort("rung")
    no_curve = pl.DataFrame()
    curve_or_line(ax, no_curve, ceilings, "x", "ceiling_acc", CEILING_COLOUR)
    points(ax, ceilings["x"].to_numpy(), ceilings, "ceiling_acc", CEILING_COLOUR, marker="D", size=2.8)
    floors = {row["model"]: row for row in ladder.to_dicts()}
    for index, weak in enumerate(supervisors):
        rows = pairs.filter(pl.col("weak") == weak).sort("strong_x")
        if rows.is_empty():
            continue
        colour, oracle = supervisor_colour(index, len(supervisors)), is_oracle(rows["method"][0])
        shift = dodge(ladder, index, len(supervisors))
        curve_or_line(ax, no_curve, rows, "strong_x", "student_acc", colour, shift=shift, oracle=oracle)
        points(ax, rows["strong_x"].to_numpy() * shift, rows, "student_acc", colour, size=3.2, hollow=oracle)
        if floors[weak]["supervisor_acc"] is not None:
            ax.plot(floors[weak]["x"], floors[weak]["supervisor_acc"], marker="s", color=colour, markersize=3.4)
    if pairs.is_empty():
        nothing_here(ax, "no pair of this method")
    compute_axis(ax, ladder)
    supervisors_acc = ladder.filter(pl.col("supervisor_acc").is_not_null())
    limits = [bar_limits([ceilings], "ceiling_acc")]
    limits += [bar_limits([pairs], "student_acc")] if not pairs.is_empty() else []
    limits += [bar_limits([supervisors_acc], "supervisor_acc")] if not supervisors_acc.is_empty() else []
    low, high = zip(*limits, strict=True)
    ax.set_ylim(min(low), min(max(high), 1.005))


def _handles(supervisors: Sequence[str], hollow: bool) -> list[Line2D]:
    handles = [Line2D([], [], color=CEILING_COLOUR, marker="D", markersize=3.2, label="strong ceiling")]
    for index, weak in enumerate(supervisors):
        colour = supervisor_colour(index, len(supervisors))
        look: dict[str, Any] = {"color": colour, "marker": "o", "markerfacecolor": "white" if hollow else colour}
        handles.append(Line2D([], [], **look, markersize=3.6, label=f"supervised by {weak}" if not index else weak))
    square: dict[str, Any] = {"color": FLOOR_COLOUR, "marker": "s", "linestyle": "", "markersize": 3.6}
    return [*handles, Line2D([], [], **square, label="supervisor")]
