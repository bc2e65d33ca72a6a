"""Courses of training under the weakest supervisor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import BOUNDS
from analysis.plots.layout import panels
from analysis.plots.marks import bar_limits
from analysis.plots.style import (
    CEILING_COLOUR,
    FLOOR_COLOUR,
    MAX_BANDS,
    in_order,
    method_colour,
    method_line,
    style,
    wrapped,
)
from analysis.training import peak_may_precede

MAX_STUDENTS = 3
MARKS: dict[str, tuple[str, float, str]] = {
    "weak": ("v", 7.0, "where weak early stopping would stop"),
    "best": ("*", 11.0, "best test accuracy [oracle]"),
}
"""Points that are marked: marker, its size, and its words. Hollow: what looked at ground truth."""
_NOTE_SHARE = 0.085
"""Of the height of a panel: a line of its notes."""


def plot_training(training: pl.DataFrame, methods: Sequence[str], caption: str) -> Figure:
    """Accuracy (top) and agreement with the supervisor (bottom) over training, for up to three students.

    Args:
        training: Rows of one section, see `analysis.training`, of methods among `methods`.
        methods: Methods in the order that fixes their colours.
        caption: What stands behind the numbers.
    """
    every = in_order(training, "strong", "strong_rung")
    students = evenly(every, MAX_STUDENTS)
    training = training.filter(pl.col("strong").is_in(students))
    weak = training["weak"][0]
    present = [method for method in methods if method in set(training["method"])]
    if len(students) < len(every):
        caption += f" {len(students)} of {len(every)} students are shown, evenly chosen; tables/training.csv has all."
    bands = len(present) <= MAX_BANDS
    if not bands:
        training = training.filter(pl.col("point").is_in(["step", "best"]))
        caption += " Intervals, and where weak early stopping would stop, are in tables/training.csv: here they would"
        caption += " hide the lines."
    caption += " Star, [oracle]: the evaluation with the best mean accuracy against ground truth on this test, a"
    caption += " diagnostic of overfitting to weak labels"
    caption += "; by how much it is above the last, in points." if bands else "."
    if any(peak_may_precede(course) for course in training.partition_by("strong", "method")):
        caption += " At least (\u2265) so much where the first evaluation is the best: the peak may lie before it."
    if "weak" in set(training["point"]):
        caption += " Triangle: mean over seeds, each stopped at its own step."
    with style():
        figure, axes = panels(
            f"During training, under the weakest supervisor ({weak})",
            caption,
            2,
            len(students),
            panel_height=2.7,
            sharey="row",
            legend=_handles(training, present, methods),
        )
        for column, strong in enumerate(students):
            rows = training.filter(pl.col("strong") == strong)
            for ax, quantity in zip(axes[:, column], ("accuracy", "agreement"), strict=True):
                for method in present:
                    _course(ax, quantity, rows.filter(pl.col("method") == method), methods, method, bands)
            _levels(axes[0, column], rows)
            if bands:
                _drops(axes[0, column], rows, present, methods)
            axes[0, column].set_title(wrapped(f"student {strong}", 38))
            axes[1, column].set_xlabel("share of training steps")
        for row, (quantity, words) in enumerate(
            (("accuracy", "test accuracy"), ("agreement", "agreement with supervisor"))
        ):
            axes[row, 0].set_ylabel(words)
            low, high = bar_limits([training], quantity)
            if quantity == "accuracy":
                levels = [*training["supervisor_acc"], *training["ceiling_acc"]]
                low, high = min(low, min(levels) - 0.01), max(high, max(levels) + 0.01)
                if bands:
                    low -= (high - low) * _NOTE_SHARE * (len(present) + 0.3)
            axes[row, 0].set_ylim(low, min(high, 1.005))
            axes[row, 0].set_xlim(0, 1.03)
    return figure


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` items, the first and the last among them, evenly apart."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _course(ax: Axes, quantity: str, rows: pl.DataFrame, methods: Sequence[str], method: str, bands: bool) -> None:
    steps = rows.filter(pl.col("point") == "step").sort("step_fraction")
    if steps.is_empty():
        return
    look, x = method_line(methods, method), steps["step_fraction"]
    ax.plot(x, steps[quantity], **look, markersize=3.2, linewidth=1.4)
    if bands:
        low, high = steps[f"{quantity}_low"], steps[f"{quantity}_high"]
        ax.fill_between(x, low, high, color=look["color"], alpha=0.1, linewidth=0)
    for point, (marker, size, _) in MARKS.items():
        chosen = rows.filter(pl.col("point") == point)
        ax.plot(
            chosen["step_fraction"],
            chosen[quantity],
            marker=marker,
            **_mark(point, look["color"]),
            markersize=size if bands else 0.75 * size,
            linestyle="",
            zorder=5,
        )


def _mark(point: str, colour: str) -> dict[str, Any]:
    """Filled with a black rim; what looked at ground truth hollow."""
    if point == "best":
        return {"color": colour, "markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.3}
    return {"color": colour, "markeredgecolor": "black", "markeredgewidth": 0.6}


def _drops(ax: Axes, rows: pl.DataFrame, present: Sequence[str], methods: Sequence[str]) -> None:
    """Best minus last accuracy of each method in percentage points, in its colour, at the foot of the panel."""
    best = {row["method"]: row for row in rows.filter(pl.col("point") == "best").to_dicts()}
    shown = [method for method in present if method in best]
    for line, method in enumerate(reversed(shown)):
        value, low, high = (100 * best[method][f"drop{bound}"] + 0.0 for bound in BOUNDS)
        at_last = best[method]["step_fraction"] == 1
        sign = "\u2265 " if peak_may_precede(rows.filter(pl.col("method") == method)) else ""
        text = "best is last" if at_last else f"best \u2212 last: {sign}{value:.1f} [{low:.1f}, {high:.1f}]"
        at = (0.985, 0.02 + _NOTE_SHARE * line)
        ax.text(*at, text, transform=ax.transAxes, ha="right", fontsize=7.5, color=method_colour(methods, method))


def _levels(ax: Axes, rows: pl.DataFrame) -> None:
    """Supervisor and ceiling; several where methods have baselines of their own."""
    for name, colour in (("supervisor_acc", FLOOR_COLOUR), ("ceiling_acc", CEILING_COLOUR)):
        for level in np.unique(rows[name].to_numpy().round(3)):
            ax.axhline(level, color=colour, linestyle=(0, (4, 2)), linewidth=1.2)


def _handles(training: pl.DataFrame, present: Sequence[str], methods: Sequence[str]) -> list[Line2D]:
    dash = (0, (4, 2))
    handles = [Line2D([], [], color=CEILING_COLOUR, linestyle=dash, label="strong ceiling")]
    handles += [Line2D([], [], **method_line(methods, method), markersize=3.2, label=method) for method in present]
    handles.append(Line2D([], [], color=FLOOR_COLOUR, linestyle=dash, label="weak supervisor"))
    points = set(training["point"])
    for point, (marker, size, label) in MARKS.items():
        if point in points:
            look = _mark(point, "#555555" if point == "best" else "#bbbbbb")
            handles.append(Line2D([], [], **look, linestyle="", marker=marker, markersize=size, label=label))
    return handles
