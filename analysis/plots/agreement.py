"""Agreement of students with their supervisors."""

import polars as pl
from matplotlib.figure import Figure

from analysis.estimates import methods_in_order
from analysis.plots.layout import panels
from analysis.plots.marks import bar_limits, lines_by_supervisor
from analysis.plots.style import style, wrapped, x_label


def plot_agreement(pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, caption: str) -> Figure:
    """Agreement against strong compute, where the supervisor is right (left) and wrong (right); a row per method."""
    methods = methods_in_order(pairs["method"])
    few = len(methods) <= 3
    parts = {"agreement_when_weak_right": "supervisor right", "agreement_when_weak_wrong": "supervisor wrong"}
    with style():
        figure, axes = panels(
            "Agreement of student and supervisor",
            caption,
            len(methods),
            2,
            sharey="col",
            panel_height=3.0 if few else 1.95,
        )
        for column, (quantity, words) in zip(axes.T, parts.items(), strict=True):
            for ax, method in zip(column, methods, strict=True):
                lines_by_supervisor(ax, quantity, method, pairs, ladder, curves)
                ax.set_title(wrapped(f"{method}: {words}", 56))
            low, high = bar_limits([pairs], quantity)
            column[0].set_ylim(max(low, -0.02), min(high, 1.02))
            column[-1].set_xlabel(x_label(ladder))
        for ax in axes[:, 0]:
            ax.set_ylabel("agreement")
    return figure
