"""All methods side by side: a line each, the reference on top, the others sorted."""

from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import is_oracle, methods_in_order
from analysis.plots.layout import panels
from analysis.plots.marks import arms, at_least, nothing_here
from analysis.plots.style import METHOD_COLOURS, style, wrapped

MEAN_COLOUR, OF_MEANS_COLOUR, DIFFERENCE_COLOUR = METHOD_COLOURS[0], "#8a8a8a", METHOD_COLOURS[1]
LABEL_WIDTH = 34
"""Characters in a line of a method's label."""
_LINE_INCHES = 0.155
_ROW_INCHES = 0.36


def plot_methods(methods: pl.DataFrame, differences: pl.DataFrame, caption: str) -> Figure:
    """PGR of each method (left) and its accuracy minus the reference's (right): the reference on top, then the best
    mean PGR.

    Args:
        methods: `Estimates.methods` of one section.
        differences: `Estimates.differences` of it; may be empty, and then there is only the left panel.
        caption: What stands behind the numbers.
    """
    order = _order(methods)
    labels = [wrapped(method, LABEL_WIDTH) for method in order]
    heights = [_ROW_INCHES + _LINE_INCHES * label.count("\n") for label in labels]
    y = np.cumsum(heights) - np.array(heights) / 2
    overall = differences.filter(pl.col("size_gap").is_null())
    columns = 1 if overall.is_empty() else 2
    oracle = any(map(is_oracle, order))
    with style():
        figure, axes = panels(
            "Methods compared",
            caption,
            1,
            columns,
            panel_height=sum(heights) + 0.85,
            width=6.4 if columns == 1 else 9.6,
            sharex=False,
            legend=_handles(oracle),
        )
        left = axes[0, 0]
        _pgr(left, methods, order, y)
        left.set_yticks(y, labels)
        left.set_ylim(sum(heights), 0)
        if columns == 2:
            reference = str(overall["reference"][0])
            _difference(axes[0, 1], overall, reference, order, y)
        for ax in axes.ravel():
            ax.grid(visible=True, axis="x")
            ax.grid(visible=False, axis="y")
            for line in y[:-1] + np.diff(y) / 2:
                ax.axhline(line, color="#f0f0f0", linewidth=0.8, zorder=0)
            ax.tick_params(axis="y", length=0)
    return figure


def _order(methods: pl.DataFrame) -> list[str]:
    """The reference, then the best mean PGR; methods without a pair that has a gap after the others."""
    by = {(r["method"], r["statistic"]): r["pgr"] for r in methods.iter_rows(named=True)}

    first = methods_in_order(methods["method"])[0]

    def key(method: str) -> tuple[bool, bool, float, str]:
        mean, of_means = by.get((method, "mean")), by.get((method, "of_means"))
        value = mean if mean is not None else of_means
        return method != first, mean is None, -(value if value is not None else -np.inf), method

    return sorted(set(methods["method"]), key=key)


def _pgr(ax: Axes, methods: pl.DataFrame, order: list[str], y: np.ndarray) -> None:
    looks = (("mean", MEAN_COLOUR, "o", -0.07), ("of_means", OF_MEANS_COLOUR, "D", 0.07))
    ax.axvline(0, color="#666666", linewidth=1.0)
    ax.axvline(1, color="#999999", linewidth=0.9, linestyle=(0, (4, 2)))
    for statistic, colour, marker, shift in looks:
        rows = {r["method"]: r for r in methods.filter(pl.col("statistic") == statistic).iter_rows(named=True)}
        for place, method in zip(y, order, strict=True):
            row = rows.get(method)
            if row is not None and row["pgr"] is not None:
                _dot(ax, row, "pgr", place + shift, colour, marker, method)
    values = [v for v in methods.filter(pl.col("statistic") != "median")["pgr"] if v is not None]
    if not values:
        nothing_here(ax, "no pair with a gap")
    low, high = ax.get_xlim()
    # Bars of a hardly defined ratio would dwarf all the rest; they run out of the frame instead.
    span = max(values, default=1.0) - min(values, default=0.0) + 0.5
    ax.set_xlim(max(low, min(0.0, *values, 0.0) - span), min(high, max(1.0, *values, 1.0) + span))
    ax.set_xlabel("PGR")
    ax.set_title("Performance gap recovered")


def _difference(ax: Axes, overall: pl.DataFrame, reference: str, order: list[str], y: np.ndarray) -> None:
    rows = {r["method"]: r for r in overall.iter_rows(named=True)}
    ax.axvline(0, color="#666666", linewidth=1.0)
    for place, method in zip(y, order, strict=True):
        row = rows.get(method)
        if method == reference:
            ax.plot(0, place, marker="o", color=DIFFERENCE_COLOUR, markersize=5)
        elif row is not None and row["accuracy_difference"] is not None:
            _dot(ax, row, "accuracy_difference", place, DIFFERENCE_COLOUR, "o", method, scale=100.0)
        else:
            ax.text(0, place, " no pair in common", fontsize=7.5, color="#777777", va="center")
    ax.margins(x=0.08)
    ax.set_xlim(*at_least(ax.get_xlim(), 1.0))
    ax.tick_params(axis="y", labelleft=False)
    ax.set_xlabel("percentage points")
    ax.set_title(wrapped(f"Accuracy minus {reference}, all pairs in common", 48))


def _dot(
    ax: Axes, row: dict, name: str, y: float, colour: str, marker: str, method: str, *, scale: float = 1.0
) -> None:
    estimate, low, high = (np.array([scale * row[f"{name}{bound}"]]) for bound in ("", "_low", "_high"))
    ax.errorbar(
        estimate,
        [y],
        xerr=arms(estimate, low, high),
        color=colour,
        marker=marker,
        markerfacecolor="white" if is_oracle(method) else colour,
        markersize=5 if marker == "o" else 4,
        elinewidth=1.3,
        capsize=0,
        linestyle="",
    )


def _handles(oracle: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=MEAN_COLOUR, marker="o", linestyle="", label="mean PGR over pairs with a gap"),
        Line2D([], [], color=OF_MEANS_COLOUR, marker="D", markersize=4, linestyle="", label="PGR of mean accuracies"),
    ]
    if oracle:
        look: dict[str, Any] = {"color": "#555555", "marker": "o", "markerfacecolor": "white", "linestyle": ""}
        handles.append(Line2D([], [], **look, label="hollow: looked at ground truth"))
    return handles
