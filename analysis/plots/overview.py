"""The sweep in one picture."""

import polars as pl
from matplotlib.figure import Figure

from analysis.estimates import methods_in_order
from analysis.plots.accuracy import accuracy_panel
from analysis.plots.differences import difference_panel, reference_of
from analysis.plots.layout import panels
from analysis.plots.marks import accuracy_limits
from analysis.plots.pgr import pgr_panel
from analysis.plots.style import direct_labels, in_order, role_handles, style, wrapped, x_label


def plot_overview(
    pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, differences: pl.DataFrame, caption: str
) -> Figure:
    """The sweep in one picture: accuracy under the weakest supervisor, PGR of the reference, and methods compared."""
    weakest = in_order(pairs, "weak", "weak_rung")[0]
    method = methods_in_order(pairs["method"])[0]
    columns = 2 if differences.is_empty() else 3
    labels = direct_labels(methods_in_order(pairs["method"]))
    in_colours = columns == 3 or not labels  # the third panel names its methods by colour only
    with style():
        figure, axes = panels(
            "Weak-to-strong generalization",
            caption,
            1,
            columns,
            sharey=False,
            sharex=False,
            panel_height=3.4,
            width=3.7 * columns if columns == 3 else 8.8,
            legend=role_handles(pairs) if in_colours else (),
        )
        accuracy, pgr = axes[0, 0], axes[0, 1]
        accuracy_panel(accuracy, weakest, pairs, ladder, curves, labels=not in_colours)
        accuracy.set_ylim(*accuracy_limits(pairs, ladder))
        accuracy.set_title(wrapped(f"Accuracy, weakest supervisor ({weakest})", 36))
        accuracy.set_ylabel("test accuracy")
        pgr_panel(pgr, method, pairs, ladder, curves, bands=False)
        pgr.set_title(wrapped(f"PGR, {method}, by supervisor", 36))
        pgr.set_ylabel("PGR")
        for ax in (accuracy, pgr):
            ax.set_xlabel(x_label(ladder).replace("strong model: ", ""))
        if columns == 3:
            difference_panel(axes[0, 2], "pgr_difference", differences, methods_in_order(pairs["method"]))
            axes[0, 2].set_title(wrapped(f"PGR minus that of {reference_of(differences)}, by size gap", 36))
    return figure
