"""Courses of training under the weakest supervisor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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

MAX_STUDENTS = 3
STOP_MARKS = {
    "weak": ("v", "where weak early stopping would stop"),
    "oracle": ("*", "where oracle early stopping would stop"),
}


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
        training = training.filter(pl.col("point") == "step")
        caption += " Intervals, and where early stopping would stop, are in tables/training.csv: here they would hide"
        caption += " the lines."
    elif set(training["point"]) & set(STOP_MARKS):
        caption += " Marks of stops: means over seeds, each stopped at its own step."
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
    for point, (marker, _) in STOP_MARKS.items():
        stop = rows.filter(pl.col("point") == point)
        ax.plot(
            stop["step_fraction"],
            stop[quantity],
            marker=marker,
            color=method_colour(methods, method),
            markeredgecolor="black",
            markeredgewidth=0.6,
            markersize=7 if marker == "v" else 9.5,
            linestyle="",
            zorder=5,
        )


def _levels(ax: Axes, rows: pl.DataFrame) -> None:
    """Supervisor and ceiling; several where methods have baselines of their own."""
    for name, colour in (("supervisor_acc", FLOOR_COLOUR), ("ceiling_acc", CEILING_COLOUR)):
        for level in np.unique(rows[name].to_numpy()):
            ax.axhline(level, color=colour, linestyle=(0, (4, 2)), linewidth=1.2)


def _handles(training: pl.DataFrame, present: Sequence[str], methods: Sequence[str]) -> list[Line2D]:
    dash = (0, (4, 2))
    handles = [Line2D([], [], color=CEILING_COLOUR, linestyle=dash, label="strong ceiling")]
    handles += [Line2D([], [], **method_line(methods, method), markersize=3.2, label=method) for method in present]
    handles.append(Line2D([], [], color=FLOOR_COLOUR, linestyle=dash, label="weak supervisor"))
    points = set(training["point"])
    for point, (marker, label) in STOP_MARKS.items():
        if point in points:
            look: dict[str, Any] = {"color": "#bbbbbb", "markeredgecolor": "black", "linestyle": ""}
            handles.append(Line2D([], [], **look, marker=marker, markersize=7 if marker == "v" else 9.5, label=label))
    return handles
