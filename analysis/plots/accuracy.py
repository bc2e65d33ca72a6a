"""Accuracy against strong compute."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.estimates import is_oracle, methods_in_order
from analysis.plots.layout import end_labels, outer_labels, panels
from analysis.plots.marks import accuracy_limits, compute_axis, curve_or_line, dodge, points
from analysis.plots.style import (
    CEILING_COLOUR,
    FLOOR_COLOUR,
    MAX_BANDS,
    direct_labels,
    in_order,
    method_colour,
    role_handles,
    style,
    x_label,
)


def plot_accuracy(pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, caption: str) -> Figure:
    """Test accuracy against strong compute: one panel per supervisor with floor, students and ceiling."""
    weak_models = in_order(pairs, "weak", "weak_rung")
    columns = min(3, len(weak_models))
    rows = -(-len(weak_models) // columns)
    labels = direct_labels(methods_in_order(pairs["method"]))
    spare = rows * columns > len(weak_models) and not labels
    handles = role_handles(pairs, wrap=34 if spare else None)
    if pairs["method"].n_unique() > MAX_BANDS:
        caption += " Bands only of the ceiling; so many students' bands would hide the lines."
    with style():
        title = "Accuracy against strong-model compute"
        figure, axes = panels(title, caption, rows, columns, legend=() if spare or labels else handles)
        flat = axes.ravel()
        limits = accuracy_limits(pairs, ladder)
        for ax, weak in zip(flat, weak_models, strict=False):
            accuracy_panel(ax, weak, pairs, ladder, curves, labels=labels)
            ax.set_ylim(*limits)
        for ax in flat[len(weak_models) :]:
            ax.set_axis_off()
        if spare:
            flat[len(weak_models)].legend(handles=handles, loc="center left", bbox_to_anchor=(0.0, 0.5))
        outer_labels(axes, len(weak_models), "test accuracy", x_label(ladder))
    return figure


def accuracy_panel(
    ax: Axes, weak: str, pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, *, labels: bool = False
) -> None:
    """Floor, students and ceiling under one supervisor; `labels`: each named at the right end of its line."""
    ends: list[tuple[float, str, str]] = []
    own = pairs.filter(pl.col("weak") == weak)
    ceilings = ladder.filter(pl.col("ceiling_acc").is_not_null()).sort("rung")
    floor = ladder.filter(pl.col("model") == weak).row(0, named=True)
    fitted = curves.filter((pl.col("quantity") == "ceiling") & pl.col("method").is_null())
    curve_or_line(ax, fitted, ceilings, "x", "ceiling_acc", CEILING_COLOUR)
    ends.append((ceilings["ceiling_acc"][-1], "ceiling", CEILING_COLOUR))
    points(ax, ceilings["x"].to_numpy(), ceilings, "ceiling_acc", CEILING_COLOUR, marker="D", size=3.6)
    if floor["supervisor_acc"] is not None:  # no one supervisor where it depends on the student, as some ensembles do
        ends.append((floor["supervisor_acc"], "supervisor", FLOOR_COLOUR))
        low, high = floor["supervisor_acc_low"], floor["supervisor_acc_high"]
        ax.axhline(floor["supervisor_acc"], color=FLOOR_COLOUR, linestyle=(0, (4, 2)), linewidth=1.3)
        ax.plot(floor["x"], floor["supervisor_acc"], marker="s", color=FLOOR_COLOUR, markersize=4.2, linestyle="")
        ax.axhspan(low, high, color=FLOOR_COLOUR, alpha=0.12, linewidth=0)
    methods = methods_in_order(pairs["method"])
    for index, method in enumerate(methods):
        rows = own.filter(pl.col("method") == method).sort("strong_x")
        colour = method_colour(methods, method)
        fitted = curves.filter(
            (pl.col("quantity") == "student") & (pl.col("method") == method) & (pl.col("weak") == weak)
        )
        oracle, band = is_oracle(method), len(methods) <= MAX_BANDS
        curve_or_line(ax, fitted, rows, "strong_x", "student_acc", colour, band=band, oracle=oracle)
        shift = dodge(ladder, index, len(methods))
        points(ax, rows["strong_x"].to_numpy() * shift, rows, "student_acc", colour, hollow=oracle)
        if not rows.is_empty():
            ends.append((rows["student_acc"][-1], method, colour))
    compute_axis(ax, ladder)
    if labels:
        end_labels(ax, ends)
    ax.set_title(f"supervisor {weak}")
