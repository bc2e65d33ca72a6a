"""Accuracy along a family of tags that are numbers, such as bands of rating."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import is_oracle
from analysis.plots.layout import grid, panels, slanted
from analysis.plots.marks import ORACLE_LINE, bar_limits, points
from analysis.plots.style import CEILING_COLOUR, FLOOR_COLOUR, METHOD_COLOURS, style

_WIDTH = 0.12
"""Between points at one tag, in distances of tags."""


def plot_tags(tags: pl.DataFrame, methods: Sequence[str], caption: str) -> Figure:
    """Accuracy of supervisor, students and ceiling by tag, a panel per family.

    Args:
        tags: Rows of `analysis.tags.by_tag` of one section, of the families to draw, in the order of their tags.
        methods: Whose students are drawn; supervisor and ceiling are those of the first.
        caption: What stands behind the numbers.
    """
    families = tags["family"].unique(maintain_order=True).to_list()
    lines = [("ceiling_acc", methods[0], CEILING_COLOUR, "D", "strong ceiling")]
    lines += [
        ("student_acc", method, colour, "o", f"student: {method}")
        for method, colour in zip(methods, METHOD_COLOURS, strict=False)
    ]
    lines.append(("weak_acc", methods[0], FLOOR_COLOUR, "s", "weak supervisor"))
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=label) for *_, colour, marker, label in lines
    ]
    with style():
        figure, axes = panels(
            "Accuracy by tag of the examples", caption, *grid(len(families)), sharex=False, legend=handles
        )
        flat = axes.ravel()
        for ax, family in zip(flat, families, strict=False):
            _panel(ax, tags.filter(pl.col("family") == family), lines)
            ax.set_title(family or "tags")
        for ax in flat[len(families) :]:
            ax.set_axis_off()
        limits = [bar_limits([tags.filter(pl.col("method") == method)], name) for name, method, *_ in lines]
        low, high = zip(*limits, strict=True)
        flat[0].set_ylim(max(min(low), -0.02), min(max(high), 1.005))
        for row in axes:
            row[0].set_ylabel("test accuracy, mean over pairs")
    return figure


def _panel(ax: Axes, rows: pl.DataFrame, lines: Sequence[tuple[str, str, str, str, str]]) -> None:
    values = rows["value"].unique(maintain_order=True).to_list()
    n_of = dict(rows.select("value", "n_test").iter_rows())
    for index, (name, method, colour, marker, _) in enumerate(lines):
        own = rows.filter(pl.col("method") == method)
        x = np.array([values.index(value) for value in own["value"]]) + _WIDTH * (index - (len(lines) - 1) / 2)
        hollow = name == "student_acc" and is_oracle(method)
        ax.plot(x, own[name], color=colour, linewidth=0.9, alpha=0.6, linestyle=ORACLE_LINE if hollow else "-")
        points(ax, x, own, name, colour, marker=marker, size=3.8, hollow=hollow)
    labels = [f"{value}\nn={n_of[value]:,}" for value in values]
    ax.set_xticks(range(len(values)), labels, **slanted(labels, 14 if len(values) < 7 else 6))
    ax.set_xlim(-0.6, len(values) - 0.4)
