"""Beyond the largest strong model, and how that went when the largest ones were hidden."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import is_oracle, methods_in_order
from analysis.extrapolation import DERIVED, DIRECT, LEVELS, MISFIT
from analysis.plots.layout import panels
from analysis.plots.marks import arms, compute_axis, curve_or_line, points, told
from analysis.plots.style import CEILING_COLOUR, FLOOR_COLOUR, in_order, method_colour, style, wrapped, x_label

MAX_METHODS = 3
_SHADES = (0.22, 0.14, 0.08)
"""Opacity of the 50, 80 and 95 % bands."""
DIRECT_COLOUR = "#8c6d31"


def plot_extrapolation(
    pairs: pl.DataFrame,
    ladder: pl.DataFrame,
    curves: pl.DataFrame,
    predictions: pl.DataFrame,
    tests: pl.DataFrame,
    caption: str,
    methods: Sequence[str] | None = None,
) -> Figure:
    """Accuracy and PGR under the weakest supervisor, measured and continued; a row per method, three at most.

    Args:
        pairs: Of one section, as all other frames.
        ladder: Models.
        curves: Of `analysis.trends`.
        predictions: Of `analysis.extrapolate`; not empty.
        tests: Of the same.
        caption: What stands behind the numbers.
        methods: Fixes the colours; by default those that occur.
    """
    methods = methods or methods_in_order(pairs["method"])
    students = predictions.filter(pl.col("quantity") == "student")
    weak = next(name for name in in_order(pairs, "weak", "weak_rung") if name in set(students["weak"]))
    own = [
        name
        for name in methods
        if not students.filter((pl.col("method") == name) & (pl.col("weak") == weak)).is_empty()
    ]
    shown = own[:MAX_METHODS]
    if len(shown) < len(own):
        caption += f" {len(shown)} of {len(own)} methods are shown; tables/extrapolation.csv has all."
    with style():
        title = f"Beyond the measured models, supervisor {weak}"
        figure, axes = panels(
            title, caption, len(shown), 2, panel_height=3.1, sharex=False, sharey=False, legend=_handles()
        )
        wide = _widened(ladder, predictions)
        for row, method in zip(axes, shown, strict=True):
            colour = method_colour(methods, method)
            _accuracy(row[0], method, weak, pairs, ladder, curves, predictions, tests, colour)
            _pgr(row[1], method, weak, pairs, curves, predictions, tests, colour)
            for ax in row:
                compute_axis(ax, wide)
                _border(ax, ladder)
                ax.set_title(wrapped(method, 46))
        for ax in axes[-1]:
            ax.set_xlabel(x_label(ladder))
    return figure


def _accuracy(
    ax: Axes,
    method: str,
    weak: str,
    pairs: pl.DataFrame,
    ladder: pl.DataFrame,
    curves: pl.DataFrame,
    predictions: pl.DataFrame,
    tests: pl.DataFrame,
    colour: str,
) -> None:
    rows = pairs.filter((pl.col("weak") == weak) & (pl.col("method") == method)).sort("strong_x")
    ceilings = ladder.filter(pl.col("ceiling_acc").is_not_null()).sort("rung")
    floor = ladder.filter(pl.col("model") == weak).row(0, named=True)
    if floor["supervisor_acc"] is not None:
        ax.axhline(floor["supervisor_acc"], color=FLOOR_COLOUR, linestyle=(0, (4, 2)), linewidth=1.2)
    grid = pl.col("method").is_null()
    curve_or_line(
        ax, curves.filter((pl.col("quantity") == "ceiling") & grid), ceilings, "x", "ceiling_acc", CEILING_COLOUR
    )
    _continued(ax, predictions.filter((pl.col("quantity") == "ceiling") & grid), CEILING_COLOUR)
    points(ax, ceilings["x"].to_numpy(), ceilings, "ceiling_acc", CEILING_COLOUR, marker="D", size=3.4)
    _tested(ax, tests.filter((pl.col("quantity") == "ceiling") & grid), CEILING_COLOUR)
    of_line = (pl.col("quantity") == "student") & (pl.col("method") == method) & (pl.col("weak") == weak)
    curve_or_line(ax, curves.filter(of_line), rows, "strong_x", "student_acc", colour, oracle=is_oracle(method))
    _continued(ax, predictions.filter(of_line), colour)
    points(ax, rows["strong_x"].to_numpy(), rows, "student_acc", colour, hollow=is_oracle(method))
    _tested(ax, tests.filter(of_line), colour)
    low = min(rows["student_acc"].min(), ceilings["ceiling_acc"].min(), floor["supervisor_acc"] or 1.0)  # type: ignore[type-var]
    ax.set_ylim(float(low) - 0.06, 1.01)  # type: ignore[arg-type]
    ax.set_ylabel("test accuracy")


def _pgr(
    ax: Axes,
    method: str,
    weak: str,
    pairs: pl.DataFrame,
    curves: pl.DataFrame,
    predictions: pl.DataFrame,
    tests: pl.DataFrame,
    colour: str,
) -> None:
    of_line = (pl.col("quantity") == "pgr") & (pl.col("method") == method) & (pl.col("weak") == weak)
    rows = pairs.filter((pl.col("weak") == weak) & (pl.col("method") == method) & pl.col("pgr").is_not_null()).sort(
        "strong_x"
    )
    for level in (0, 1):
        ax.axhline(level, color="#999999", linewidth=0.9, linestyle="-" if level == 0 else (0, (4, 2)))
    curve_or_line(ax, told(curves.filter(of_line)), rows, "strong_x", "pgr", colour, oracle=is_oracle(method))
    own = predictions.filter(of_line)
    _continued(ax, own.filter(pl.col("predictor") == DERIVED), colour)
    direct = own.filter(pl.col("predictor") == DIRECT).sort("x")
    ax.plot(direct["x"], direct["y"], color=DIRECT_COLOUR, linestyle=(0, (1, 1.2)), linewidth=1.4)
    points(ax, rows["strong_x"].to_numpy(), rows, "pgr", colour, hollow=is_oracle(method))
    _tested(ax, tests.filter(of_line), colour)
    if rows.is_empty():
        ax.text(0.5, 0.5, "no pair with a gap", transform=ax.transAxes, ha="center", color="#777777", fontsize=9)
    ax.set_ylim(-0.3, 1.3)
    ax.set_ylabel("PGR")


def _continued(ax: Axes, rows: pl.DataFrame, colour: str) -> None:
    """A dashed line with three bands, as far as something is predicted."""
    rows = rows.filter(pl.col("y").is_not_null()).sort("x")
    if rows.is_empty():
        return
    if MISFIT in set(rows["status"]):
        look = {"transform": ax.transAxes, "ha": "right", "va": "bottom", "fontsize": 7.5, "color": colour}
        ax.text(0.99, 1.01, "no curve fits these points: continued with doubt", **look)
    ax.plot(rows["x"], rows["y"], color=colour, linestyle=(0, (4, 1.5)), linewidth=1.4)
    for level, shade in zip(LEVELS, _SHADES, strict=True):
        low, high = rows[f"y_low_{level * 100:.0f}"], rows[f"y_high_{level * 100:.0f}"]
        ax.fill_between(rows["x"], low, high, color=colour, alpha=shade, linewidth=0)


def _tested(ax: Axes, tests: pl.DataFrame, colour: str) -> None:
    """What was predicted for hidden models, with 95 % bars, from the most that was hidden."""
    own = tests.filter(pl.col("predictor") == DERIVED)
    if own.is_empty():
        return
    own = own.filter(pl.col("shown") == pl.col("shown").min()).sort("x")
    y, low, high = (own[name].to_numpy() for name in ("y", "y_low_95", "y_high_95"))
    ax.errorbar(
        own["x"].to_numpy() * 1.07,
        y,
        yerr=arms(y, low, high),
        fmt="s",
        color=colour,
        markerfacecolor="white",
        markersize=4.5,
        elinewidth=0.8,
        alpha=0.85,
        zorder=4,
    )


def _border(ax: Axes, ladder: pl.DataFrame) -> None:
    """Where the measured models end."""
    top = float(ladder["x"].max())  # type: ignore[arg-type]
    ax.axvline(top, color="#999999", linewidth=0.9, linestyle=(0, (1, 2)))
    ax.text(top, 0.02, " not measured", transform=ax.get_xaxis_transform(), fontsize=7.5, color="#777777")


def _widened(ladder: pl.DataFrame, predictions: pl.DataFrame) -> pl.DataFrame:
    """The ladder with an imagined model at the end of the predictions, so that axes reach there."""
    largest = ladder.sort("rung").tail(1)
    return pl.concat(
        [ladder, largest.with_columns(x=pl.lit(float(np.max(predictions["x"].to_numpy()))), model=pl.lit(""))]
    )


def _handles() -> list[Line2D]:
    measured = Line2D([], [], color="#444444", marker="o", markersize=4.5, label="measured")
    beyond = Line2D([], [], color="#444444", linestyle=(0, (4, 1.5)), label="continued, with 50/80/95 % bands")
    hidden = Line2D(
        [],
        [],
        color="#444444",
        marker="s",
        markerfacecolor="white",
        linestyle="",
        markersize=4.5,
        label="predicted while hidden",
    )
    direct = Line2D([], [], color=DIRECT_COLOUR, linestyle=(0, (1, 1.2)), label="PGR continued directly")
    ceiling = Line2D([], [], color=CEILING_COLOUR, marker="D", markersize=3.4, label="ceiling")
    return [measured, beyond, hidden, ceiling, direct]
